"""The one reader of image files: PNG, JPEG, TIFF, BMP, WebP and DICOM to pixels, for every tool that is given files.

`read_image` reads one file, `scan` finds the images of a folder and counts what it leaves out. Needs numpy and Pillow;
DICOM also needs pydicom, unusual TIFF needs tifffile, NIfTI needs nibabel, and a message names what to install.
"""

from toolkit.images.errors import MAX_PIXELS, ImageError, printable
from toolkit.images.reader import (
    FORMATS,
    Picture,
    count_frames,
    frame_choice,
    frames_of,
    read_image,
    split_frame,
    with_frame,
)
from toolkit.images.scan import SUFFIXES, LeftOut, Scan, scan

__all__ = [
    "FORMATS",
    "MAX_PIXELS",
    "SUFFIXES",
    "ImageError",
    "LeftOut",
    "Picture",
    "Scan",
    "count_frames",
    "frame_choice",
    "frames_of",
    "printable",
    "read_image",
    "scan",
    "split_frame",
    "with_frame",
]
