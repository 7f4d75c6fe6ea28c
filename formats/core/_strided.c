/* Strided copies from one buffer into another: what NumPy would do, without its import, which takes longer than copying 200 MB.
 *
 * Nothing here knows of files or of pickles. Whatever the caller has checked, bounds are checked once more before a byte is touched.
 */
#define Py_LIMITED_API 0x030B0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <string.h>

#define MOST 64 /* dimensions, as of a tensor of torch's */
#define SIDE 16 /* items of a row at a time */

typedef struct {
    Py_ssize_t size, stride, step; /* items; `stride` in the source, `step` in the target */
} Dim;

/* The last two dimensions of a box, `SIDE` items of the last at a time: as many streams of the source are read side by side, so that what
 * one row takes of a cache line is still there when the next rows come. Items need not be aligned; `memcpy` of one is a move. */
#define PLANE(ITEM)                                                                                                               \
    static void plane##ITEM(char *target, const char *source, const Dim *down, const Dim *across)                                 \
    {                                                                                                                             \
        const Py_ssize_t stride = across->stride * ITEM, step = across->step * ITEM;                                              \
        for (Py_ssize_t j = 0; j < across->size; j += SIDE) {                                                                     \
            const Py_ssize_t width = across->size - j < SIDE ? across->size - j : SIDE;                                           \
            for (Py_ssize_t y = 0; y < down->size; y++) {                                                                         \
                const char *from = source + j * stride + y * down->stride * ITEM;                                                 \
                char *to = target + j * step + y * down->step * ITEM;                                                             \
                if (width == SIDE)                                                                                                \
                    for (int x = 0; x < SIDE; x++)                                                                                \
                        memcpy(to + x * step, from + x * stride, ITEM);                                                           \
                else                                                                                                              \
                    for (Py_ssize_t x = 0; x < width; x++)                                                                        \
                        memcpy(to + x * step, from + x * stride, ITEM);                                                           \
            }                                                                                                                     \
        }                                                                                                                         \
    }

PLANE(1)
PLANE(2)
PLANE(4)
PLANE(8)

static void
copy(char *target, const char *source, Py_ssize_t item, const Dim *dims, Py_ssize_t count)
{
    void (*plane)(char *, const char *, const Dim *, const Dim *) = item == 1 ? plane1 : item == 2 ? plane2 : item == 4 ? plane4 : plane8;
    const Dim *down = &dims[count - 2], *across = &dims[count - 1];
    Py_ssize_t at[MOST] = {0};
    for (;;) {
        if (across->stride == 1 && across->step == 1)
            for (Py_ssize_t y = 0; y < down->size; y++)
                memcpy(target + y * down->step * item, source + y * down->stride * item, across->size * item);
        else
            plane(target, source, down, across);
        Py_ssize_t d = count - 3;
        for (; d >= 0; d--) {
            target += dims[d].step * item;
            source += dims[d].stride * item;
            if (++at[d] < dims[d].size)
                break;
            at[d] = 0;
            target -= dims[d].size * dims[d].step * item;
            source -= dims[d].size * dims[d].stride * item;
        }
        if (d < 0)
            return;
    }
}

/* Whether the box that begins at item `first` lies in `held` items; of the target, which it writes each once, it has no more. */
static int
fits(Py_ssize_t held, Py_ssize_t first, const Dim *dims, Py_ssize_t count, int in_target)
{
    if (first < 0 || first >= held)
        return 0;
    Py_ssize_t left = held - 1 - first, items = 1;
    for (Py_ssize_t d = 0; d < count; d++) {
        Py_ssize_t width = in_target ? dims[d].step : dims[d].stride, more = dims[d].size - 1;
        if (width < 0 || more < 0 || (width && more > left / width) || (in_target && dims[d].size > held / items))
            return 0;
        left -= width * more;
        if (in_target)
            items *= dims[d].size;
    }
    return 1;
}

/* `given`, a sequence of (size, stride, step), with dimensions of one item before it where there are fewer than two; -1 and an error. */
static Py_ssize_t
take(PyObject *given, Dim *dims)
{
    Py_ssize_t count = PySequence_Size(given), lead = count < 2 ? 2 - count : 0;
    if (count < 0)
        return -1;
    if (count > MOST) {
        PyErr_Format(PyExc_ValueError, "%zd dimensions, at most %d are copied", count, MOST);
        return -1;
    }
    for (Py_ssize_t d = 0; d < lead; d++)
        dims[d] = (Dim){1, 0, 0};
    for (Py_ssize_t d = 0; d < count; d++) {
        PyObject *one = PySequence_GetItem(given, d), *three = one ? PySequence_Tuple(one) : NULL;
        Dim *dim = &dims[lead + d];
        int read = three && PyArg_ParseTuple(three, "nnn", &dim->size, &dim->stride, &dim->step);
        Py_XDECREF(three);
        Py_XDECREF(one);
        if (!read)
            return -1;
        if (dim->size == 1)
            dim->stride = dim->step = 0; /* it is not moved along */
    }
    return lead + count;
}

static PyObject *
box(PyObject *module, PyObject *args)
{
    Py_buffer target, source;
    Py_ssize_t into, base, item;
    PyObject *given, *result = NULL;
    Dim dims[MOST];
    (void)module;
    if (!PyArg_ParseTuple(args, "w*ny*nnO", &target, &into, &source, &base, &item, &given))
        return NULL;
    Py_ssize_t count = take(given, dims);
    if (count < 0)
        goto done;
    if (item != 1 && item != 2 && item != 4 && item != 8)
        PyErr_Format(PyExc_ValueError, "items of %zd bytes", item);
    else if (!fits(target.len / item, into, dims, count, 1))
        PyErr_SetString(PyExc_ValueError, "the box reaches beyond the target");
    else if (!fits(source.len / item, base, dims, count, 0))
        PyErr_SetString(PyExc_ValueError, "the box reaches beyond the source");
    else {
        Py_BEGIN_ALLOW_THREADS
        copy((char *)target.buf + into * item, (const char *)source.buf + base * item, item, dims, count);
        Py_END_ALLOW_THREADS
        result = Py_NewRef(Py_None);
    }
done:
    PyBuffer_Release(&target);
    PyBuffer_Release(&source);
    return result;
}

static PyMethodDef methods[] = {
    {"box", box, METH_VARARGS,
     "box(target, into, source, base, item, dims): target[into + Σ i·step] = source[base + Σ i·stride] for dims of (size, stride, step).\n\n"
     "All but item, which is in bytes, are in items. The fewer steps of the target the last dimension takes, and the fewer strides of the\n"
     "source the one before, the faster. Raises ValueError where the box does not lie in both."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "_strided", .m_doc = "Strided copies.", .m_size = 0, .m_methods = methods, .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__strided(void)
{
    return PyModuleDef_Init(&definition);
}
