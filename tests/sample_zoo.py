"""Make a small zoo of checkpoints, as people have them on their disks: every container, nesting, names, folders, and what lies between.

    python -m tests.sample_zoo DEST [--with-bad]

The weights are random from a fixed seed, and written by torch, safetensors, NumPy and the standard library. ``--with-bad`` adds files that
are called checkpoints and are none: cut off, one byte wrong, a Git-LFS pointer, a web page. A file that is there already is written again.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from tests import sample_containers as containers
from tests import sample_models as models

Weights = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Sample:
    """One checkpoint: its place below the zoo (a file, an index or a folder) and what it holds, by the name of each model in it.

    ``models`` is empty where safetensors has no single tensor for some of them.
    """

    name: str
    write: Callable[[Path], object]
    models: Mapping[str, Weights] = field(default_factory=dict)


def samples() -> Iterator[Sample]:
    """Every checkpoint of the zoo."""
    for part in (_vision, _language, _generative, _nets, _programs, _archives, _odd):
        yield from part()


def _vision() -> Iterator[Sample]:
    net, optimizer = models.trained(models.classifier())
    weights = net.state_dict()
    half = {key: value.half() if value.is_floating_point() else value for key, value in weights.items()}
    brain = {key: value.bfloat16() if value.is_floating_point() else value for key, value in weights.items()}
    averaged = {key: value * 0.999 if value.is_floating_point() else value for key, value in weights.items()}
    training = {"epoch": 7, "arch": "small", "state_dict": weights, "optimizer": optimizer, "args": models.arguments()}
    one: Mapping[str, Weights] = {"": weights}

    yield Sample("vision/weights.pth", containers.saved(weights), one)
    yield Sample("vision/copies/weights (1).pth", containers.saved(weights, "weights"), one)  # the same bytes
    yield Sample("vision/weights-2018.pth", containers.legacy(weights), one)
    yield Sample("vision/weights-2016.pth.tar", containers.tar(dict(weights)), one)
    yield Sample("vision/checkpoint.pth.tar", containers.saved(training), one)
    yield Sample("vision/checkpoint-2019.pth.tar", containers.legacy(training), one)
    yield Sample("vision/parallel.t7", containers.legacy({"net": torch.nn.DataParallel(net), "acc": 0.5}), one)
    yield Sample("vision/distributed.pt", containers.saved({f"module.{key}": value for key, value in weights.items()}), one)
    yield Sample("vision/compiled.pt", containers.saved({f"_orig_mod.{key}": value for key, value in weights.items()}), one)
    yield Sample("vision/whole model.pt", containers.saved(net), one)
    yield Sample("vision/averaged.ckpt", containers.saved({"model": weights, "model_ema": averaged, "iteration": 9000}), one)
    yield Sample("vision/half.bin", containers.saved(half), {"": half})
    yield Sample("vision/bfloat16.bin", containers.saved(brain), {"": brain})


def _language() -> Iterator[Sample]:
    tied = models.language()
    large = models.language(words=4096, width=48)
    lightning = {"state_dict": tied, "global_step": 10, "pytorch-lightning_version": "2.1.3", "hyper_parameters": {"lr": 1e-3}}
    plain = {key: value for key, value in large.items() if key != "decoder.weight"}
    zero = models.zero()

    yield Sample("language/tied.bin", containers.saved(tied), {"": tied})
    yield Sample("language/deep/er/last.ckpt", containers.saved(lightning), {"": tied})
    yield Sample("language/large.pt", containers.saved(large), {"": large})
    yield Sample("language/embeddings.safetensors", containers.safetensors(plain), {"": plain})
    yield Sample("language/sharded/pytorch_model.bin.index.json", containers.sharded(plain, "bin"), {"": plain})
    yield Sample("language/sharded-safe/model.safetensors.index.json", containers.sharded(plain, "safetensors"), {"": plain})
    yield Sample("language/distributed", containers.distributed(plain), {"": plain})
    yield Sample("language/deepspeed-2", containers.deepspeed(zero, 2), {"": zero.consolidated()})
    yield Sample("language/deepspeed-3", containers.deepspeed(zero, 3), {"": zero.consolidated()})


def _generative() -> Iterator[Sample]:
    generator, critic = models.generator().state_dict(), models.critic().state_dict()
    both: Mapping[str, Weights] = {"generator": generator, "discriminator": critic}
    yield Sample("generative/gan.pth", containers.saved({**both, "step": 40000}), both)
    yield Sample("generative/генератор № 1.pth", containers.saved(generator), {"": generator})


def _nets() -> Iterator[Sample]:
    """Whole models of torch's own classes, which run without anybody's source: an ONNX file can be made of each."""
    for name, net in models.nets().items():
        yield Sample(f"nets/{name}.pt", containers.saved(net), {"": net.state_dict()})


def _programs() -> Iterator[Sample]:
    net = models.classifier(8).eval()
    weights = net.state_dict()
    one: Mapping[str, Weights] = {"": weights}
    floating = {key: value for key, value in weights.items() if value.is_floating_point()}
    yield Sample("programs/scripted.pt", containers.scripted(net), one)
    yield Sample("programs/traced.pt", containers.traced(net), one)
    yield Sample("programs/package.pt", containers.package(weights), one)
    yield Sample("programs/exported.pt2", containers.exported(net), one)
    yield Sample("programs/graph.onnx", containers.onnx(floating), {"": floating})
    yield Sample("programs/arrays.npz", containers.npz(weights), one)
    yield Sample("programs/arrays.pkl", containers.arrays(weights), one)


def _archives() -> Iterator[Sample]:
    weights = models.classifier(12).state_dict()
    one: Mapping[str, Weights] = {"": weights}
    yield Sample("archives/mailed.pth.gz", containers.compressed(weights, "gzip"), one)
    yield Sample("archives/mailed.pth.xz", containers.compressed(weights, "lzma"), one)
    yield Sample("archives/upload.zip", containers.zipped(weights), one)
    yield Sample("archives/backup.tar.bz2", containers.tarred(weights), one)
    yield Sample("archives/unpacked", containers.unpacked(weights), one)


def _odd() -> Iterator[Sample]:
    strided = models.strided()
    yield Sample("odd/strided.pt", containers.saved(strided), {"": strided})
    yield Sample("odd/complex.pt", containers.saved(models.spectrum()), {"": models.spectrum()})
    yield Sample("odd/float8.pt", containers.saved(models.float8()), {"": models.float8()})
    yield Sample("odd/sparse.pt", containers.saved(models.sparse()))
    yield Sample("odd/quantised.pt", containers.saved(models.quantised()))


OTHERS: dict[str, bytes] = {  # what lies beside checkpoints and is none
    "README.md": b"# Our models\n\nTrained on Tuesdays.\n",
    "vision/train.log": b"epoch 7 loss 0.31\n" * 40,
    "vision/labels.csv": b"0,cat\n1,dog\n",
    "vision/curve.png": b"\x89PNG\r\n\x1a\n" + bytes.fromhex(
        "0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8ffff3f0005fe02fe0def46b80000000049454e44ae426082"
    ),
    "vision/weights.pth.sha256": b"0" * 64 + b"  weights.pth\n",
    "language/sharded/config.json": b'{"hidden_size": 48, "vocab_size": 4096}\n',
    "nets/train.py": b"import torch\n",
}  # fmt: skip


def bad(folder: Path) -> list[Path]:
    """Files that are called checkpoints and cannot be converted; their paths."""
    weights = models.classifier().state_dict()
    whole = folder / "bad" / "cut off.pth"
    whole.parent.mkdir(parents=True, exist_ok=True)
    containers.saved(weights)(whole)
    data = whole.read_bytes()
    flipped = bytearray(data)
    flipped[data.index(weights["head.weight"].numpy().tobytes()) + 5] ^= 0x10
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'1f' * 32}\nsize 46830571\n"
    page = "<!DOCTYPE html><html><head><title>404 Not Found</title></head><body>Not Found</body></html>\n"
    made = {
        "cut off.pth": data[: len(data) // 2],
        "one bit wrong.pth": bytes(flipped),
        "pointer.safetensors": pointer.encode(),
        "web page.pth": page.encode(),
        "empty.ckpt": b"",
    }
    for name, content in made.items():
        (folder / "bad" / name).write_bytes(content)
    return [folder / "bad" / name for name in made]


def make(folder: Path, *, with_bad: bool = False) -> list[Path]:
    """Write the zoo into ``folder``; the paths of its checkpoints, each of which converts (the bad ones are not among them)."""
    made = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of containers that it means to give up
        for sample in samples():
            path = folder / sample.name
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                shutil.rmtree(path)
            torch.manual_seed(zlib.crc32(sample.name.encode()))
            sample.write(path)
            made.append(path)
        for name, content in OTHERS.items():
            (folder / name).write_bytes(content)
        if with_bad:
            bad(folder)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("dest", type=Path, metavar="DEST")
    parser.add_argument("--with-bad", action="store_true", help="add files that are called checkpoints and cannot be converted")
    options = parser.parse_args()
    made = make(options.dest, with_bad=options.with_bad)
    nbytes = sum(path.stat().st_size for path in options.dest.rglob("*") if path.is_file())
    sys.stdout.write(f"{len(made)} checkpoints, {nbytes / 1e6:.1f} MB in {options.dest}\n")


if __name__ == "__main__":
    main()
