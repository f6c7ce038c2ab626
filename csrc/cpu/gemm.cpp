#include "gemm.h"

#include <ATen/Context.h>
#include <ATen/native/CPUBlas.h>

#include <cstdlib>
#include <vector>

namespace itm {
namespace {

namespace blas = at::native::cpublas;

// torch decides inside brgemm whether the processor can; the only way to ask is to try.
template <class Op>
bool brgemm_works() {
  std::vector<Op> a(4), b(32);
  std::vector<float> c(16);
  try {
    if constexpr (std::is_same_v<Op, float>) {
#ifdef CPUBLAS_BRGEMM_F32F32F32
      blas::brgemm(1, 16, 2, 2, 16, 16, false, a.data(), b.data(), c.data(), false);
      return true;
#endif
    } else {
#ifdef CPUBLAS_BRGEMM_BF16BF16F32
      blas::brgemm(1, 16, 2, 2, 16, 16, false, a.data(), b.data(), c.data(), true);
      blas::brgemm_release(true);
      return true;
#endif
    }
  } catch (const std::exception&) {
  }
  return false;
}

GemmChoice choose(at::ScalarType operands) {
  if (operands == at::kDouble) return {false, "float64: torch's BLAS, tile by tile"};
  const char* forced = std::getenv("ITM_FAST_GEMM");
  const std::string wanted = forced == nullptr ? "" : forced;
  TORCH_CHECK_VALUE(wanted.empty() || wanted == "brgemm" || wanted == "blas",
                    "ITM_FAST_GEMM must be brgemm or blas, got ", wanted);
  if (wanted == "blas") return {false, "forced by ITM_FAST_GEMM=blas"};
  if (!at::globalContext().userEnabledMkldnn())
    return {false, "oneDNN is switched off (torch.backends.mkldnn): torch's BLAS, tile by tile"};
  static const bool float_works = brgemm_works<float>();
  static const bool bfloat_works = brgemm_works<at::BFloat16>();
  const bool works = operands == at::kBFloat16 ? bfloat_works : float_works;
  TORCH_CHECK(works || wanted.empty(), "ITM_FAST_GEMM=brgemm: this torch or processor has no such kernel for ",
              operands, "; unset the variable");
  return {works, works ? "oneDNN's micro-kernel (brgemm), exported by torch"
                       : "this torch or processor offers no micro-kernel: torch's BLAS, tile by tile"};
}

template <class Op, class T>
void product(bool brgemm, int64_t m, int64_t n, int64_t k, const Op* a, int64_t lda, const Op* b, int64_t ldb, T* c,
             int64_t ldc, bool accumulate) {
  if constexpr (std::is_same_v<Op, float>) {
#ifdef CPUBLAS_BRGEMM_F32F32F32
    if (brgemm) {
      for (int64_t i = 0; i < m; i += kChunkRows)
        blas::brgemm(std::min(kChunkRows, m - i), n, k, lda, ldb, ldc, accumulate, a + i * lda, b, c + i * ldc, false);
      return;
    }
#endif
  }
  if constexpr (std::is_same_v<Op, at::BFloat16>) {
    // Only ever called with the micro-kernel: without it, operands are widened to float32.
#ifdef CPUBLAS_BRGEMM_BF16BF16F32
    for (int64_t i = 0; i < m; i += kChunkRows)
      blas::brgemm(std::min(kChunkRows, m - i), n, k, lda, ldb, ldc, accumulate, a + i * lda, b, c + i * ldc, true);
#endif
  } else {
    const auto type = c10::CppTypeToScalarType<Op>::value;
    const at::AutoDispatchBelowAutograd no_autograd;
    const at::Tensor left = at::from_blob(const_cast<Op*>(a), {m, k}, {lda, 1}, type);
    const at::Tensor right = at::from_blob(const_cast<Op*>(b), {k, n}, {ldb, 1}, type);
    at::Tensor out = at::from_blob(c, {m, n}, {ldc, 1}, type);
    if (accumulate)
      at::addmm_out(out, out, left, right);
    else
      at::mm_out(out, left, right);
  }
}

}  // namespace

GemmChoice gemm_choice(at::ScalarType operands) { return choose(operands); }

template <class Op, class T>
void Gemm<Op, T>::operator()(int64_t m, int64_t n, int64_t k, const Op* a, int64_t lda, const Op* b, int64_t ldb, T* c,
                             int64_t ldc, bool accumulate) const {
  const int64_t run = std::is_same_v<Op, float> ? std::min(kSumRun, std::max<int64_t>(k / 2, 16)) : k;
  for (int64_t first = 0; first < k; first += run)
    product<Op, T>(brgemm, m, n, std::min(run, k - first), a + first, lda, b + first * ldb, ldb, c, ldc,
                   accumulate || first > 0);
}

template <class Op, class T>
void Gemm<Op, T>::in_one_run(int64_t m, int64_t n, int64_t k, const Op* a, int64_t lda, const Op* b, int64_t ldb, T* c,
                             int64_t ldc, bool accumulate) const {
  product<Op, T>(brgemm, m, n, k, a, lda, b, ldb, c, ldc, accumulate);
}

template struct Gemm<float, float>;
template struct Gemm<double, double>;
template struct Gemm<at::BFloat16, float>;

void gemm_release(bool brgemm, bool bfloat16) {
  if (brgemm && bfloat16) blas::brgemm_release(true);
}

}  // namespace itm
