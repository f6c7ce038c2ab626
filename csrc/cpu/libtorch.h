// What the CPU operators use of libtorch and torch's stable ABI hasn't, by its C++ name when it is first asked for. No
// symbol of it is needed to load them: a torch without it goes the way without it.
#pragma once

#include <torch/headeronly/util/BFloat16.h>

#include <cstdint>

namespace itm {

// oneDNN's micro-kernel, C [m, n] (+)= A [m, k] . B [k, n]. bfloat16: B in pairs of rows, `pairs` says so. Throws where
// the processor has none.
template <class Op>
using Brgemm = void (*)(int64_t m, int64_t n, int64_t k, int64_t lda, int64_t ldb, int64_t ldc, bool accumulate,
                        const Op* a, const Op* b, float* c, bool pairs);

// Null where this torch exports none.
template <class Op>
Brgemm<Op> find_brgemm();
template <>
Brgemm<float> find_brgemm();
template <>
Brgemm<torch::headeronly::BFloat16> find_brgemm();

// Gives the matrix unit back that bfloat16 products took (AMX).
void brgemm_release();

// torch.backends.mkldnn; true where it cannot be asked.
bool mkldnn_enabled();

// torch.backends.cuda.matmul.allow_tf32; false where it cannot be asked.
bool tf32_allowed();

}  // namespace itm
