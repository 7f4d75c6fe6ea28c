# ruff: noqa
# Run by Python 2.7: writes python2.pth, a checkpoint as torch 0.3 wrote it there (cPickle, protocol 2, str keys). Neither torch nor
# anything else is needed: the pickle only names torch's functions.
import collections
import cPickle
import io
import os
import struct
import sys
import types

torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
sys.modules.update({"torch": torch, "torch._utils": utils})


class FloatStorage(object):
    def __init__(self, key, values):
        self.key, self.values = key, values


FloatStorage.__module__ = "torch"
torch.FloatStorage = FloatStorage


def _rebuild_tensor(*args):
    raise NotImplementedError


_rebuild_tensor.__module__ = "torch._utils"
utils._rebuild_tensor = _rebuild_tensor


class Tensor(object):
    def __init__(self, storage, size, stride):
        self.storage, self.size, self.stride = storage, size, stride

    def __reduce__(self):
        return _rebuild_tensor, (self.storage, 0, self.size, self.stride)


def persistent_id(value):
    if isinstance(value, FloatStorage):
        return ("storage", FloatStorage, value.key, "cpu", len(value.values), None)


storages = [FloatStorage("94370", [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), FloatStorage("94371", [0.5])]
tree = collections.OrderedDict()
tree["conv.weight"] = Tensor(storages[0], (3, 2), (1, 3))
tree["conv.bias"] = Tensor(storages[1], (1,), (1,))
checkpoint = {
    "state_dict": tree,
    "epoch": 3,
    "best": 0.25,
    "long": 1 << 70,
    "caf\xe9": "na\xefve \xff",
    "\u20ac": "na\xefve",
    "arch": "alexnet",
}

buffer = io.BytesIO()
for value in (
    0x1950A86A20F9469CFC6C,
    1001,
    {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}},
):
    buffer.write(cPickle.dumps(value, 2))
pickler = cPickle.Pickler(buffer, 2)
pickler.persistent_id = persistent_id
pickler.dump(checkpoint)
buffer.write(cPickle.dumps([storage.key for storage in storages], 2))
for storage in storages:
    buffer.write(struct.pack("<q", len(storage.values)) + struct.pack("<%df" % len(storage.values), *storage.values))
open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "python2.pth"), "wb").write(buffer.getvalue())
