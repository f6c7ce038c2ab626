#include "isa.h"

#include <cstdlib>
#include <stdexcept>

namespace itm {
namespace {

bool available(Isa isa) {
#if ITM_X86
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (isa == Isa::kAvx2) return avx2;
  if (isa == Isa::kAvx512)
    return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
  return isa == Isa::kBase;
}

IsaChoice choose() {
  const char* forced = std::getenv("ITM_FAST_CPU");
  if (forced != nullptr && *forced != '\0') {
    for (Isa isa : {Isa::kBase, Isa::kAvx2, Isa::kAvx512}) {
      if (forced != std::string(isa_name(isa))) continue;
      if (!available(isa))
        throw std::invalid_argument(std::string("ITM_FAST_CPU=") + forced +
                                    ": this processor does not have it; unset the variable");
      return {isa, std::string("forced by ITM_FAST_CPU=") + forced};
    }
    throw std::invalid_argument(std::string("ITM_FAST_CPU must be base, avx2 or avx512, got ") + forced);
  }
  if (available(Isa::kAvx512)) return {Isa::kAvx512, "the processor has AVX-512 F, BW, DQ and VL"};
  if (available(Isa::kAvx2)) return {Isa::kAvx2, "the processor has AVX2 and FMA, not all of AVX-512"};
  return {Isa::kBase, ITM_X86 ? "the processor has no AVX2" : "not an x86 processor: portable vectors of 16 bytes"};
}

}  // namespace

const IsaChoice& isa_choice() {
  static const IsaChoice choice = choose();
  return choice;
}

const char* isa_name(Isa isa) { return isa == Isa::kAvx512 ? "avx512" : isa == Isa::kAvx2 ? "avx2" : "base"; }

}  // namespace itm
