#include "gemm.h"

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "libtorch.h"

namespace itm {
namespace {

// torch decides inside brgemm whether the processor can; the only way to ask is to try.
template <class Op>
bool brgemm_works() {
  const auto brgemm = find_brgemm<Op>();
  if (brgemm == nullptr) return false;
  constexpr bool pairs = std::is_same_v<Op, BFloat16>;
  std::vector<Op> a(4), b(32);
  std::vector<float> c(16);
  try {
    brgemm(1, 16, 2, 2, 16, 16, false, a.data(), b.data(), c.data(), pairs);
  } catch (const std::exception&) {
    return false;
  }
  if (pairs) brgemm_release();
  return true;
}

GemmChoice choose(ScalarType operands) {
  if (operands == ScalarType::Double) return {false, "float64: torch's BLAS, tile by tile"};
  const char* forced = std::getenv("ITM_FAST_GEMM");
  const std::string wanted = forced == nullptr ? "" : forced;
  ITM_CHECK_VALUE(wanted.empty() || wanted == "brgemm" || wanted == "blas",
                  "ITM_FAST_GEMM must be brgemm or blas, got ", wanted);
  if (wanted == "blas") return {false, "forced by ITM_FAST_GEMM=blas"};
  if (!mkldnn_enabled()) return {false, "oneDNN is switched off (torch.backends.mkldnn): torch's BLAS, tile by tile"};
  static const bool float_works = brgemm_works<float>();
  static const bool bfloat_works = brgemm_works<BFloat16>();
  const bool works = operands == ScalarType::BFloat16 ? bfloat_works : float_works;
  if (!works && !wanted.empty())
    throw std::runtime_error(message_of("ITM_FAST_GEMM=brgemm: this torch or processor has no such kernel for ",
                                        operands, "; unset the variable"));
  return {works, works ? "oneDNN's micro-kernel (brgemm), exported by torch"
                       : "this torch or processor offers no micro-kernel: torch's BLAS, tile by tile"};
}

Tensor matrix(const void* data, int64_t rows, int64_t columns, int64_t stride, ScalarType type) {
  return torch::stable::from_blob(const_cast<void*>(data), {rows, columns}, {stride, 1},
                                  torch::stable::Device(torch::headeronly::DeviceType::CPU), type);
}

template <class Op, class T>
void product(bool brgemm, int64_t m, int64_t n, int64_t k, const Op* a, int64_t lda, const Op* b, int64_t ldb, T* c,
             int64_t ldc, bool accumulate) {
  if constexpr (!std::is_same_v<Op, double>) {
    // bfloat16 is only ever multiplied with the micro-kernel: without it, operands are widened to float32.
    if (brgemm) {
      static const auto micro_kernel = find_brgemm<Op>();
      for (int64_t i = 0; i < m; i += kChunkRows)
        micro_kernel(std::min(kChunkRows, m - i), n, k, lda, ldb, ldc, accumulate, a + i * lda, b, c + i * ldc,
                     std::is_same_v<Op, BFloat16>);
      return;
    }
  }
  if constexpr (std::is_same_v<Op, T>) {
    const ScalarType type = std::is_same_v<T, double> ? ScalarType::Double : ScalarType::Float;
    const Tensor left = matrix(a, m, k, lda, type), right = matrix(b, k, n, ldb, type),
                 out = matrix(c, m, n, ldc, type);
    // Straight to the CPU's own: the dispatcher would take as long as a small tile.
    TORCH_ERROR_CODE_CHECK(accumulate ? aoti_torch_cpu_addmm_out(out.get(), out.get(), left.get(), right.get(), 1, 1)
                                      : aoti_torch_cpu_mm_out(out.get(), left.get(), right.get()));
  }
}

}  // namespace

GemmChoice gemm_choice(ScalarType operands) { return choose(operands); }

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
template struct Gemm<BFloat16, float>;

void gemm_release(bool brgemm, bool bfloat16) {
  if (brgemm && bfloat16) brgemm_release();
}

}  // namespace itm
