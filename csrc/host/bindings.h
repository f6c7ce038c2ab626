#pragma once

#include <pybind11/pybind11.h>

namespace itm {

// DocumentFrequencies and Encoder of ngrams.h as Python classes; itm_fast/relevance uses them.
void bind_ngrams(pybind11::module_& m);

}  // namespace itm
