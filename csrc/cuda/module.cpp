// itm_fast._cuda: loading it registers the operators' CUDA kernels (their static registrations live in this library);
// Python asks it only how it was built. Nothing is asked of a driver before the first launch.
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#if __has_include("build_facts.h")
#include "build_facts.h"  // written by setup.py
#else
#define ITM_FAST_NVCC "unknown"
#define ITM_FAST_CUDA_ARCHITECTURES "unknown"
#endif

static PyModuleDef definition = {PyModuleDef_HEAD_INIT,
                                 "_cuda",
                                 "CUDA kernels of itm_fast's operators.",
                                 -1,
                                 nullptr,
                                 nullptr,
                                 nullptr,
                                 nullptr,
                                 nullptr};

PyMODINIT_FUNC PyInit__cuda() {
  PyObject* module = PyModule_Create(&definition);
  if (module == nullptr) return nullptr;
  if (PyModule_AddStringConstant(module, "nvcc", ITM_FAST_NVCC) != 0 ||
      PyModule_AddStringConstant(module, "architectures", ITM_FAST_CUDA_ARCHITECTURES) != 0) {
    Py_DECREF(module);
    return nullptr;
  }
  return module;
}
