"""What a newcomer writes with PyTorch: torchvision's feature extractor, a DataLoader, h5py.

::

    python tests/benchmarks/torch_extractor.py FOLDER OUT.h5 --model vgg16 --nodes features.30
"""

from __future__ import annotations

import argparse
import contextlib
import os
from pathlib import Path

import h5py
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.models import get_model
from torchvision.models.feature_extraction import create_feature_extractor

POOLINGS = {
    "": lambda values: values,
    "avg": lambda values: values.mean((2, 3)),
    "max": lambda values: values.amax((2, 3)),
    "flatten": lambda values: values.flatten(1),
}


class Photos(Dataset):
    """The images of a folder and below, in class folders or not."""

    def __init__(self, folder, transform):
        self.paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        self.transform = transform

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        with Image.open(self.paths[index]) as image:
            return self.transform(image.convert("RGB"))


parser = argparse.ArgumentParser(description="Features of a folder of images, the usual way.")
parser.add_argument("folder", help="images, in class folders or not")
parser.add_argument("out", help="the HDF5 file to write")
parser.add_argument("--model", default="vgg16", help="a model of torchvision")
parser.add_argument("--nodes", default="features.9,features.30", help="as features.30:avg")
parser.add_argument("--size", type=int, nargs=2, default=(224, 224), help="height and width")
parser.add_argument("--batch-size", type=int, default=32)
parser.add_argument("--layout", default="contiguous_format", help="or channels_last")
parser.add_argument("--autocast", choices=["bfloat16", "float16"], help="default: float32")
args = parser.parse_args()

device = "cuda" if torch.cuda.is_available() else "cpu"
layout = getattr(torch, args.layout)
specs = args.nodes.split(",")
nodes = [spec.partition(":")[0] for spec in specs]
model = create_feature_extractor(get_model(args.model, weights=None).eval(), nodes)
model = model.to(device, memory_format=layout)

normalize = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
transform = transforms.Compose(
    [transforms.Resize(tuple(args.size)), transforms.ToTensor(), normalize]
)
photos = Photos(args.folder, transform)
loader = DataLoader(
    photos,
    batch_size=args.batch_size,
    num_workers=len(os.sched_getaffinity(0)),
    pin_memory=device == "cuda",
)
autocast = (
    torch.autocast(device, dtype=getattr(torch, args.autocast))
    if args.autocast
    else contextlib.nullcontext()
)

with h5py.File(args.out, "w") as file, torch.inference_mode(), autocast:
    file["path"] = [str(path) for path in photos.paths]
    start = 0
    for batch in loader:
        found = model(batch.to(device, memory_format=layout, non_blocking=True))
        for spec in specs:
            node, _, pooling = spec.partition(":")
            values = POOLINGS[pooling](found[node]).float().cpu().numpy()
            if spec not in file:
                file.create_dataset(spec, (len(photos), *values.shape[1:]), "f4")
            file[spec][start : start + len(values)] = values
        start += len(batch)
