// Emulated operators are registered for CPU tensors, in the namespace of the library that they are linked into:
// compiled once, they are in several.
#pragma once

#include "../../csrc/ops/tensor.h"

extern "C" const char* const itm_emulated_namespace;

#define ITM_CUDA_OPERATORS(m) ITM_EMULATED_OPERATORS(m, C10_UID)
#define ITM_EMULATED_OPERATORS(m, number) ITM_EMULATED_OPERATORS_OF(m, number)
#define ITM_EMULATED_OPERATORS_OF(m, number)                                                                         \
  static void emulated_operators_##number(torch::stable::detail::StableLibrary&);                                    \
  static const torch::stable::detail::StableTorchLibraryInit emulated_operators_init_##number(                       \
      torch::stable::detail::StableLibrary::Kind::IMPL, &emulated_operators_##number, itm_emulated_namespace, "CPU", \
      __FILE__, __LINE__);                                                                                           \
  static void emulated_operators_##number(torch::stable::detail::StableLibrary& m)
