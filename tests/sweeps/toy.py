"""A script for the tests of the dispatcher: argparse flags, results at --results_path, and many ways to go wrong."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time


def note(path: str, word: str, args: argparse.Namespace) -> None:
    """Append one line to the ledger that the tests read: who did what, when."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(f"{word} {args.key} {os.getpid()} {time.time():.4f}\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--results_path", required=True)
    parser.add_argument("--key", type=int, default=0)
    parser.add_argument("--learning_rate", type=float, default=0.1)
    parser.add_argument("--model_name", choices=("mlp", "cnn"), default="mlp")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sleep_s", type=float, default=0.0)
    parser.add_argument("--augment", action="store_true")
    parser.add_argument("--amp", action=argparse.BooleanOptionalAction, default=False)
    parser.add_argument("--sizes", type=int, nargs="+", default=[])
    parser.add_argument("--title")
    parser.add_argument("--behave", default="well")
    parser.add_argument("--ledger")
    parser.add_argument("--output_dir")
    parser.add_argument("--epochs", type=int, default=0)
    args = parser.parse_args()
    if args.ledger:
        note(args.ledger, "start", args)
        if os.name != "nt":
            import fcntl

            # Held until this process is gone: a second process of the same job would be seen.
            lock = open(f"{args.ledger}.{args.key}.lock", "w")  # noqa: SIM115
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                note(args.ledger, "overlap", args)
    misbehave(args.behave, args.results_path)
    train(args)
    time.sleep(args.sleep_s)
    results = {
        "best_val_acc": args.learning_rate + 0.01 * args.seed,
        "title": args.title,
        "gpu": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "sizes_seen": str(args.sizes),
        "augment_seen": args.augment,
        "history": {"val_acc": [0.5, 0.6]},
    }
    with open(args.results_path, "w", encoding="utf-8") as file:
        json.dump(results, file)
    if args.ledger:
        note(args.ledger, "end", args)


def train(args: argparse.Namespace) -> None:
    """Append an epoch to history.csv now and then, as the mains do; the learning rate decides how good it gets."""
    if not args.epochs:
        return
    os.makedirs(args.output_dir)
    with open(os.path.join(args.output_dir, "history.csv"), "w", encoding="utf-8") as file:
        file.write("epoch,val_acc\n")
        for epoch in range(1, args.epochs + 1):
            file.write(f"{epoch},{args.learning_rate * epoch / args.epochs}\n")
            file.flush()
            time.sleep(0.25)


def misbehave(how: str, results_path: str) -> None:
    """End or hang in the way that the test asks for."""
    if how == "exit":
        print("the last words")
        sys.exit(7)
    if how == "user error":
        sys.exit(2)
    if how == "todo":
        raise NotImplementedError("TODO 1.2: define the layers")
    if how == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if how == "crash once":
        with open(results_path + ".tries", "a+", encoding="utf-8") as tries:
            tries.write("x")
            if tries.tell() == 1:
                os.kill(os.getpid(), signal.SIGKILL)
    if how == "needs the gpu alone":
        others = os.path.dirname(os.path.dirname(results_path))
        with open(os.path.join(others, f"on.{os.getpid()}"), "w"):
            pass
        time.sleep(0.3)
        crowd = [name for name in os.listdir(others) if name.startswith("on.")]
        time.sleep(0.3)
        os.remove(os.path.join(others, f"on.{os.getpid()}"))
        if len(crowd) > 1:
            sys.exit("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB")
    if how == "no results":
        sys.exit(0)
    if how in ("broken results", "list results"):
        with open(results_path, "w", encoding="utf-8") as file:
            file.write('{"best_val_acc": 0.' if how == "broken results" else "[1, 2]")
        sys.exit(0)
    if how == "family":  # a child, and a grandchild in a session of its own that ignores SIGTERM and its parents' end
        code = (
            "import os, signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
            "subprocess.Popen([sys.executable, '-c', 'import signal, time;"
            "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(300)'], start_new_session=True)"
        )
        subprocess.Popen([sys.executable, "-c", code])
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], start_new_session=True)


if __name__ == "__main__":
    main()
