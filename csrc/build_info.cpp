#include "build_info.h"

#include "cpu/gemm.h"
#include "cpu/isa.h"

#if __has_include("build_facts.h")
#include "build_facts.h"  // written by setup.py
#else
#define ITM_FAST_VERSION "unknown"
#define ITM_FAST_NO_CUDA ""
#define ITM_FAST_BUILD_TORCH "unknown"
#endif

namespace itm {

BuildInfo build_info() {
  BuildInfo info;
  info.facts = {{"version", ITM_FAST_VERSION},
                {"built_with_torch", ITM_FAST_BUILD_TORCH},
#if defined(__clang__)
                {"compiler", __VERSION__},
#else
                {"compiler", "g++ " __VERSION__},
#endif
                {"no_cuda", ITM_FAST_NO_CUDA},  // why itm_fast._cuda was not built; empty: it was
                {"cpu_isa", isa_name(isa_choice().isa)},
                {"cpu_isa_reason", isa_choice().reason}};
  const GemmChoice f32 = gemm_choice(ScalarType::Float), bf16 = gemm_choice(ScalarType::BFloat16);
  info.facts.insert(info.facts.end(), {{"gemm_float32", f32.name},
                                       {"gemm_float32_reason", f32.reason},
                                       {"gemm_bfloat16", bf16.name},
                                       {"gemm_bfloat16_reason", bf16.reason}});
#define ITM_ADD_ISA(isa) info.cpu_isas.push_back(#isa);
  ITM_FOR_EACH_ISA(ITM_ADD_ISA)
#undef ITM_ADD_ISA
  return info;
}

}  // namespace itm
