#include "gemm.h"

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

template <class Op>
void brgemm_product(int64_t m, int64_t n, int64_t k, int64_t run, const Op* a, int64_t lda, const Op* b, int64_t ldb,
                    float* c, int64_t ldc, bool accumulate) {
  static const auto brgemm = find_brgemm<Op>();
  for (int64_t first = 0; first < k; first += run)
    for (int64_t i = 0; i < m; i += kChunkRows)
      brgemm(std::min(kChunkRows, m - i), n, std::min(run, k - first), lda, ldb, ldc, accumulate || first > 0,
             a + i * lda + first, b + first * ldb, c + i * ldc, std::is_same_v<Op, BFloat16>);
}

template <class Op>
void brgemm_of_panels(int64_t m, int64_t n, int64_t k, int64_t run, const Op* a, int64_t lda, const Op* b, float* c,
                      int64_t ldc, bool accumulate) {
  for (int64_t first = 0; first < n; first += kPanelColumns) {
    const int64_t columns = std::min(kPanelColumns, n - first);
    brgemm_product(m, columns, k, run, a, lda, b + first * k, columns, c + first, ldc, accumulate);
  }
}

GemmChoice own(std::string reason) {
  return {Multiplier::kOwn, std::string("own, ") + isa_name(isa_choice().isa), std::move(reason)};
}

bool has_pairs() {
#if ITM_X86
  return isa_choice().isa == Isa::kAvx512 && __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

GemmChoice choose(ScalarType operands) {
  const char* forced = std::getenv("ITM_FAST_GEMM");
  const std::string wanted = forced == nullptr ? "" : forced;
  ITM_CHECK_VALUE(wanted.empty() || wanted == "own" || wanted == "brgemm", "ITM_FAST_GEMM must be own or brgemm, got ",
                  wanted);
  if (operands == ScalarType::Double) return own("brgemm has no float64");
  static const bool numbers_work = brgemm_works<float>(), pairs_work = brgemm_works<BFloat16>();
  if (wanted == "brgemm" && !numbers_work)
    throw std::runtime_error("ITM_FAST_GEMM=brgemm: this torch or processor has no such kernel; unset the variable");
  const bool pairs = operands == ScalarType::BFloat16;
  std::string why_own;
  if (wanted == "own")
    why_own = "forced by ITM_FAST_GEMM=own";
  else if (wanted.empty() && !mkldnn_enabled())
    why_own = "oneDNN is switched off (torch.backends.mkldnn)";
  else if (pairs ? !pairs_work : !numbers_work)
    why_own = "this torch or processor offers no brgemm";
  else if (wanted.empty() && isa_choice().isa == Isa::kBase)
    why_own = "of the instruction set that was asked for";
  else if (wanted.empty() && (!pairs || isa_choice().isa == Isa::kAvx2))
    why_own = "level with oneDNN's micro-kernel in the operators, and the same bits whatever the tile";
  else
    return {Multiplier::kBrgemm, "brgemm",
            wanted.empty() ? "oneDNN's micro-kernel, exported by torch" : "forced by ITM_FAST_GEMM=brgemm"};
  if (!pairs) return own(why_own);
  if (has_pairs()) return {Multiplier::kOwn, "own, avx512_bf16", why_own};
  return {Multiplier::kWidened, "widened to float32", "the processor multiplies no pairs of bfloat16"};
}

template <class T>
TileProduct<T, T> own_product() {
  return ITM_PICK(tile_product<T>)();
}

template <class Op, class T>
TileProduct<Op, T> chosen() {
  constexpr ScalarType type = std::is_same_v<Op, double>  ? ScalarType::Double
                              : std::is_same_v<Op, float> ? ScalarType::Float
                                                          : ScalarType::BFloat16;
  const bool brgemm = choose(type).multiplier == Multiplier::kBrgemm;
  if constexpr (std::is_same_v<Op, double>)
    return own_product<double>();
  else if (brgemm)
    return {brgemm_product<Op>, brgemm_of_panels<Op>, brgemm_of_panels<Op>, nullptr, kPanelColumns, 16};
  else if constexpr (std::is_same_v<Op, float>)
    return own_product<float>();
#if ITM_X86
  else
    return avx512bf16::tile_product();
#else
  return {};
#endif
}

template <class Op>
int64_t sum_run(int64_t k) {
  return std::is_same_v<Op, float> ? std::min(kSumRun, std::max<int64_t>(k / 2, 16)) : k;
}

}  // namespace

GemmChoice gemm_choice(ScalarType operands) { return choose(operands); }

template <class Op, class T>
Gemm<Op, T>::Gemm() : product(chosen<Op, T>()) {}

template <class Op, class T>
Gemm<Op, T> Gemm<Op, T>::own() {
  if constexpr (std::is_same_v<Op, T>)
    return Gemm(own_product<T>());
  else
    return Gemm();
}

template <class Op, class T>
int64_t Gemm<Op, T>::run(int64_t k) const {
  return sum_run<Op>(k);
}

template <class Op, class T>
void Gemm<Op, T>::operator()(int64_t m, int64_t n, int64_t k, const Op* a, int64_t lda, const Op* b, int64_t ldb, T* c,
                             int64_t ldc, bool accumulate) const {
  product.rows(m, n, k, sum_run<Op>(k), a, lda, b, ldb, c, ldc, accumulate);
}

template <class Op, class T>
void Gemm<Op, T>::of_panels(int64_t m, int64_t n, int64_t k, const Op* a, int64_t lda, const Op* b, T* c, int64_t ldc,
                            bool accumulate) const {
  product.panels(m, n, k, sum_run<Op>(k), a, lda, b, c, ldc, accumulate);
}

template <class Op, class T>
const Op* Gemm<Op, T>::left(int64_t m, int64_t k, const Op* a, Op* room) const {
  if (!packs_left()) return a;
  product.pack_left(m, k, sum_run<Op>(k), a, k, room);
  return room;
}

template <class Op, class T>
void Gemm<Op, T>::of_left(int64_t m, int64_t n, int64_t k, const Op* left, const Op* b, T* c, int64_t ldc) const {
  product.packed(m, n, k, sum_run<Op>(k), left, k, b, c, ldc, false);
}

template <class Op, class T>
void Gemm<Op, T>::release() const {
  if constexpr (std::is_same_v<Op, BFloat16>)
    if (product.rows == brgemm_product<Op>) brgemm_release();
}

template class Gemm<float, float>;
template class Gemm<double, double>;
template class Gemm<BFloat16, float>;

}  // namespace itm
