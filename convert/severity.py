"""How dangerous a name in a pickle is to whoever loads it with ``pickle``. Here nothing is loaded; the table only orders what is shown.

Nothing depends on it: a name that is missing here is no less inert. ``critical`` runs commands or code, or reaches files and the network;
``suspicious`` finds or binds such a thing by name, or is a function nobody knows that would be called; ``known`` is what torch, NumPy
and the standard library write into checkpoints; ``note`` is all else: classes that are named, or of which an object would be made.
"""

from __future__ import annotations

CRITICAL, SUSPICIOUS, KNOWN, NOTE = "critical", "suspicious", "known", "note"
ORDER = (CRITICAL, SUSPICIOUS, NOTE, KNOWN)


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Modules of which every name is critical.
_MODULES = _names("""
    os posix nt posixpath ntpath subprocess _posixsubprocess commands popen2 socket _socket ssl asyncio selectors pty tty shutil
    sys _sys ctypes _ctypes cffi runpy code codeop bdb pdb cProfile profile trace timeit doctest webbrowser pip ensurepip venv
    pickle _pickle cPickle cloudpickle dill marshal shelve http httplib urllib urllib2 urllib3 requests httpx aiohttp ftplib
    smtplib telnetlib xmlrpc poplib imaplib nntplib multiprocessing threading _thread thread concurrent signal tempfile
    fileinput imp pydoc idlelib lib2to3 test turtledemo this antigravity zipimport pkgutil compileall py_compile distutils
    setuptools _distutils_hack msilib winreg _winapi fcntl mmap gc atexit faulthandler linecache sqlite3 logging.config aifc
    tarfile zipfile io _io _pyrepl rlcompleter inspect paramiko fabric sh pexpect plumbum invoke IPython jedi asyncore asynchat
    socketserver cgi wsgiref tkinter glob pathlib_abc
""")
_NAMES = _names("""
    builtins.eval builtins.exec builtins.execfile builtins.compile builtins.__import__ builtins.open builtins.file
    builtins.input builtins.breakpoint builtins.globals builtins.locals builtins.vars builtins.setattr builtins.delattr
    builtins.exit builtins.quit builtins.help builtins.raw_input builtins.reload builtins.__build_class__ builtins.memoryview
    types.CodeType types.FunctionType types.LambdaType types.ModuleType types.MethodType types.coroutine
    _frozen_importlib._gcd_import importlib.import_module importlib.__import__ importlib.reload torch.load torch.save torch.hub
    torch.package torch.compile torch.serialization.load torch.jit.load torch.jit.script torch.utils.cpp_extension
    torch.utils.data.datapipes.utils.decoder torch.utils._config_module torch.utils.bottleneck torch.utils.collect_env
    torch.utils._content_store torch.utils.show_pickle torch._dynamo torch._inductor torch.fx torch.classes torch.ops torch._ops
    torch.distributed.run torch.distributed.launch torch.multiprocessing torch.testing torch.cuda.memory torch.utils.model_dump
    torch.utils.hipify torch.utils.benchmark torch.distributed.rpc torch.distributed.elastic torch.utils.checkpoint torch.onnx
    torch.export numpy.load numpy.save numpy.savez numpy.savetxt numpy.loadtxt numpy.genfromtxt numpy.fromfile numpy.memmap
    numpy.DataSource numpy.testing numpy.f2py numpy.distutils numpy.ctypeslib numpy.lib.npyio numpy.lib._npyio_impl
    numpy.lib.format numpy.core.records.fromfile pandas.read_pickle pandas.eval pandas.io pandas.core.computation joblib.load
    sklearn.utils.metaestimators operator.methodcaller _operator.methodcaller functools.reduce uuid._get_command_stdout
    logging.FileHandler site.execsitecustomize pathlib.Path.write_bytes pathlib.Path.write_text pathlib.Path.unlink
    pathlib.Path.open getpass.getpass getpass.unix_getpass typing.get_type_hints typing._eval_type typing.ForwardRef
    dataclasses.make_dataclass dataclasses._create_fn collections._eval numpy.core.umath_tests.system numpy.ma.core.system
""")
_SUSPICIOUS = _names("""
    builtins.getattr builtins.hasattr builtins.type builtins.super builtins.property builtins.classmethod builtins.staticmethod
    builtins.map builtins.filter builtins.iter builtins.next builtins.apply builtins.callable builtins.dir builtins.print
    operator.attrgetter operator.itemgetter operator.call _operator.attrgetter _operator.itemgetter _operator.call
    functools.partial functools.partialmethod functools.singledispatch functools.cached_property types.SimpleNamespace
    types.DynamicClassAttribute weakref.finalize builtins.object.__getattribute__ builtins.object.__reduce_ex__
    copyreg._extension_registry copyreg.add_extension
""")
_SUSPICIOUS_MODULES = frozenset(("importlib", "_frozen_importlib", "_frozen_importlib_external", "operator", "_operator", "functools",
                                 "types", "inspect", "weakref", "ast", "dis", "opcode", "symtable", "tokenize", "contextlib"))  # fmt: skip
# What checkpoints are made of.
_KNOWN_MODULES = frozenset(
    (
        "torch._utils",
        "torch._tensor",
        "torch.tensor",
        "torch.nn.modules",
        "torch.nn.parameter",
        "torch.nn.backends.thnn",
        "torch.nn.utils.rnn",
        "torch.optim",
        "torch.autograd.variable",
        "torch.distributed.checkpoint.metadata",
        "torch.nn.quantized",
        "torch.ao.nn",
        "torch.quantization",
        "torch.ao.quantization",
        "torch.nn.quantizable",
        "torch.distributed.tensor",
        "torch.jit._pickle",
        "torch.nn.qat",
        "torch.nn.intrinsic",
        "__torch__",
        "datetime",
        "_datetime",
        "decimal",
        "fractions",
    )
)
_KNOWN = _names("""
    torch.Size torch.device torch.Tensor torch.Generator torch.Parameter torch.storage._load_from_bytes
    torch.storage.UntypedStorage torch.nn.Parameter torch.storage._UntypedStorage torch.storage.TypedStorage
    torch.storage._TypedStorage torch.UntypedStorage torch.serialization._get_layout torch.per_tensor_affine
    torch.per_channel_affine torch.per_tensor_symmetric torch.per_channel_symmetric torch.per_channel_affine_float_qparams
    torch.strided torch.sparse_coo torch.sparse_csr torch.sparse_csc torch.sparse_bsr torch.sparse_bsc torch.contiguous_format
    torch.preserve_format torch.channels_last torch.autograd.Variable torch.torch_version.TorchVersion torch._C.ScriptObject
    collections.OrderedDict collections.defaultdict collections.deque collections.Counter collections.namedtuple
    typing.OrderedDict numpy.ndarray numpy.dtype numpy.core.multiarray._reconstruct numpy._core.multiarray._reconstruct
    numpy.core.multiarray.scalar numpy._core.multiarray.scalar numpy.core.numeric._frombuffer numpy._core.numeric._frombuffer
    numpy.random._pickle.__randomstate_ctor numpy.random._pickle.__generator_ctor numpy.random._pickle.__bit_generator_ctor
    numpy.random._mt19937.MT19937 builtins.set builtins.frozenset builtins.bytes builtins.bytearray builtins.complex
    builtins.slice builtins.range builtins.object builtins.int builtins.float builtins.str builtins.bool builtins.list
    builtins.dict builtins.tuple builtins.long builtins.unicode copyreg._reconstructor copyreg.__newobj__ copyreg.__newobj_ex__
    _codecs.encode argparse.Namespace uuid.UUID pathlib.Path pathlib.PosixPath pathlib.PurePosixPath pathlib.WindowsPath
    pathlib.PureWindowsPath pathlib._local.PosixPath pathlib._local.Path
""")
_ALIASES = {"__builtin__": "builtins", "__builtins__": "builtins", "copy_reg": "copyreg", "exceptions": "builtins"}


def severity(name: str, called: int, made: int) -> str:
    """The severity of ``module.name``, of which a loader would make ``called`` calls, ``made`` of them only to make an object."""
    parts = name.split(".")
    parts[0] = _ALIASES.get(parts[0], parts[0])
    if parts[:3] == ["torch", "jit", "_pickle"] and len(parts) == 4:  # lists of numbers in TorchScript
        return KNOWN
    text = ".".join(parts)
    if text in _KNOWN:
        return KNOWN
    if _critical(parts):
        return CRITICAL
    if _within(parts, _SUSPICIOUS) or parts[0] in _SUSPICIOUS_MODULES:
        return SUSPICIOUS
    storage = parts[0] == "torch" and len(parts) <= 3 and parts[-1].endswith(("Storage", "Tensor")) and parts[-1][0].isupper()
    element_type = parts[0] == "torch" and len(parts) == 2 and parts[1].rstrip("0123456789") in _ELEMENT_TYPES
    if storage or element_type or (_within(parts, _KNOWN_MODULES) and not _private(parts)):
        return KNOWN
    return SUSPICIOUS if called > made else NOTE


_ELEMENT_TYPES = frozenset(("float", "int", "uint", "bool", "bfloat", "half", "double", "long", "short", "cfloat", "cdouble", "complex",
                            "qint", "quint", "quint4x", "quint2x"))  # fmt: skip


def _critical(parts: list[str]) -> bool:
    # STACK_GLOBAL follows dots: torch.serialization and os.system are os.system, and a name need not begin with its module.
    for at in range(len(parts)):
        rest = parts[at:]
        if (rest[0] in _MODULES and (at == 0 or len(rest) > 1)) or (at == 0 and _within(rest, _NAMES)):
            return True
        if at and rest[0] in ("builtins", "__builtins__") and len(rest) > 1 and _within(["builtins", *rest[1:]], _NAMES):
            return True
        if rest[0] in ("__globals__", "__subclasses__", "__code__", "__loader__", "__import__"):
            return True
    return False


def _within(parts: list[str], names: frozenset[str]) -> bool:
    """Whether the name, or a module it lies in, is one of ``names``."""
    return any(".".join(parts[:end]) in names for end in range(1, len(parts) + 1))


def _private(parts: list[str]) -> bool:
    """A function of a known module that reaches through it to another module (torch.nn.modules.module.warnings.…)."""
    return any(part in _SUSPICIOUS_MODULES for part in parts[1:])
