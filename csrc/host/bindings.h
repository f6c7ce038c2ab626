#pragma once

#undef TORCH_TARGET_VERSION  // where it is defined, the pybind11 that comes with torch 2.11 is an error
#include <pybind11/pybind11.h>

namespace itm {

// DocumentFrequencies and Encoder of ngrams.h as Python classes; itm_fast/relevance uses them.
void bind_ngrams(pybind11::module_& m);

}  // namespace itm
