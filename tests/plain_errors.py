"""What the errors that beginners meet most often mean, in plain words: Python and PyTorch name the symptom."""

from __future__ import annotations

import difflib
import re
from types import FrameType, ModuleType

# What the error says (a regular expression), and below it what that means; {1}, {2} stand for the groups.
# The first that fits is taken.
MEANINGS = r"""
mat1 and mat2 shapes cannot be multiplied \(\d+x(\d+) and (\d+)x\d+\)
    a linear layer was made for rows of {2} numbers, and gets rows of {1}
transposed=1, weight of size \[(\d+), .* but got (\d+) channels
    a transposed convolution was made for {1} channels, and gets {2}
weight of size \[\d+, \d+,.* to have (\d+) channels, but got (\d+) channels
    a convolution was made for {1} channels, and gets {2}
Output size is too small
    a pooling or convolution gets a map that is smaller than its window
Sizes of tensors must match except in dimension (\d+)\. Expected size (\d+) but got size (\d+)
    torch.cat along dim={1} gets maps of size {2} and {3}; they may differ along dim={1} alone (dim=1: channels)
^cat\(\)
    torch.cat takes one list of tensors: torch.cat([a, b], dim=1)
shape '\[.*\]' is invalid for input of size
    view or reshape asks for more or fewer values than there are; is the size of the batch written down (use -1)?
view size is not compatible
    view cannot reorder memory; use reshape or flatten
Expected more than 1 value per channel
    BatchNorm gets one value per channel in training: put it before the pooling to 1 x 1, or use model.eval()
Found no NVIDIA driver|not compiled with CUDA|No CUDA GPUs
    this machine has no NVIDIA GPU; no .cuda() and no 'cuda' in your code: .to(device) follows the flag --device
log_softmax_lastdim_kernel_impl|\"nll_loss\w*\" not implemented for 'Long'
    the loss got the labels in the place of the logits: criterion(logits, labels)
Expected floating point type for target with class probabilities|expected scalar type (Long|Float) but found
    the loss takes logits as the model returns them (no argmax), and labels that are whole numbers
element 0 of tensors does not require grad
    backward() finds no graph: validation has none; in training .item(), .detach(), argmax or no_grad cuts it
elements of (input|target) should be between 0 and 1|Assertion .*input_val >= zero
    binary cross-entropy got an {1} outside 0 to 1: (probabilities, masks), in this order, and a sigmoid before
'tuple' object is not callable
    a layer is a tuple; does a comma stand at the end of the line that makes it?
Boolean value of Tensor with more than one value
    a tensor stands where a setting belongs; a loss is made first, nn.CrossEntropyLoss(), and called later
(only one element tensors|a Tensor with \d+ elements) can
    one number was expected, and a tensor of several came; is .mean() missing?
(too many|not enough) values to unpack
    more or fewer parts than names on the left; a batch is (images, labels), or a dict: batch['image'], batch['mask']
'float' object has no attribute 'backward'
    backward() needs the loss as a tensor; .item() is for the sum alone
size of tensor a \((\d+)\) must match the size of tensor b \((\d+)\)
    tensors of size {1} and {2} meet; classes are dim=1 of the logits (argmax), masks and predictions have one shape
not supported between instances of .*NoneType
    None is compared with a number; max_steps=None means no limit: ask first, if max_steps is not None
passed to NoneType\.__format__
    None is written like a number; where there may be no value, ask first: if value is None
string indices must be integers
    a text is used like a dict; may this value be a text, too?
'NoneType' object (has no attribute|is not)|cannot unpack non-iterable NoneType
    something is None that should not be; is a `return` missing in the function that made it?
'([A-Z]\w+)' object has no attribute '(flatten|view|shape|size)'|be Tensor, not (?!None)([A-Z]\w+)|got \((?!T|N)(\w+), P
    {1}{3}{4} stands where a tensor belongs; a layer is made once, in __init__, and called with a tensor in forward
invalid character '[“”‘’]'
    curly quotes of a chat or a text editor; type straight ones: ' or "
invalid non-printable character
    an invisible character was pasted; type this line by hand
reading from stdin
    input() waits for someone who types; tests and grading have nobody
null bytes
    the file was saved as UTF-16; save it as UTF-8
partially initialized module '(\w+)'
    files import each other, or a file of yours is called like a package: {1}
cannot import name '(\w+)' from '(\w+)'
    {1} is not in {2}.py; names that were given stay as they are
No module named '((classification|segmentation)_\w+|hw5_\w+)'
    {1}.py is not in its folder; was it moved, or renamed (a (1) in its name)?
No module named '([\w.]+)'
    {1} is not installed, and grading does not have it unless it is in requirements.txt
got an unexpected keyword argument '(\w+)'
    an argument called {1} is missing; arguments that were given stay
""".strip().splitlines()


def in_plain_words(error: BaseException, frame: FrameType | None) -> str:
    """What `error` means, or '' if nothing can be added. `frame` is where the student's own code failed, if it did."""
    text = str(error)
    for pattern, meaning in zip(MEANINGS[::2], MEANINGS[1::2], strict=True):
        if match := re.search(pattern, text):
            return re.sub(r"\{(\d)\}", lambda digit: match[int(digit[1])] or "", meaning.strip()) + _batch(text, frame)
    if frame is None:
        return ""
    if isinstance(error, NameError):
        return _unknown_name(error.name or "", frame)
    if isinstance(error, KeyError):
        return _unknown_key(error, frame)
    if isinstance(error, AttributeError):
        return _unknown_attribute(text, frame)
    return ""


def _batch(text: str, frame: FrameType | None) -> str:
    """What to add if the layer that fails gets more or fewer images than the model got: they were joined or mixed."""
    got = re.search(r"expected input\[(\d+), |shapes cannot be multiplied \((\d+)x", text)
    given = frame and frame.f_back and frame.f_back.f_locals.get("args")  # of the call of the model
    count = len(given[0]) if given and hasattr(given[0], "shape") else 0
    if not got or not count or int(got[1] or got[2]) == count:
        return ""
    return f"; the batch of {count} became one of {got[1] or got[2]}: try flatten(start_dim=1), cat(..., dim=1)"


def _unknown_name(name: str, frame: FrameType) -> str:
    """A NameError: what there is instead."""
    if name in ("F", "np", "plt", "os", "math", "copy", "torchvision", "random", "time", "nn", "tqdm"):
        return f"{name} is not imported at the top of the file"
    code = frame.f_code
    known = [*code.co_varnames, *frame.f_globals]
    if close := difflib.get_close_matches(name, known, 1, 0.75):
        return f"there is no {name} here; did you mean {close[0]}?"
    arguments = ", ".join(code.co_varnames[: code.co_argcount])
    return f"there is no {name} here; {code.co_name} has the arguments {arguments}" if arguments else ""


def _unknown_key(error: KeyError, frame: FrameType) -> str:
    """A KeyError: which keys the dict has."""
    for name, value in frame.f_locals.items():
        keys = list(value) if isinstance(value, dict) else []
        if 0 < len(keys) <= 12 and error.args and error.args[0] not in keys:
            return f"{name} has no {error.args[0]!r}; it has {', '.join(map(repr, keys))}"
    return ""


def _unknown_attribute(text: str, frame: FrameType) -> str:
    """An AttributeError: a similar name, or that __init__ did not set it."""
    match = re.match(r"'(\w+)' object has no attribute '(\w+)'", text)
    owners = [value for value in frame.f_locals.values() if match and type(value).__name__ == match[1]]
    if not match or not owners or isinstance(owners[0], ModuleType):
        return ""
    if close := difflib.get_close_matches(match[2], dir(owners[0]), 1, 0.6):
        return f"there is no {match[2]}; did you mean {close[0]}?"
    is_own = owners[0] is frame.f_locals.get("self")
    return f"self.{match[2]} is never set; does __init__ say self.{match[2]} = ...?" if is_own else ""
