// itm_fast._C: loading it registers the operators (their static registrations live in this library); what Python asks
// of it directly is only how it was built and what it runs here.
#include "cpu/gemm.h"
#include "cpu/isa.h"
#include "host/bindings.h"

#if __has_include("build_facts.h")
#include "build_facts.h"  // written by setup.py
#else
#define ITM_FAST_VERSION "unknown"
#define ITM_FAST_NO_CUDA ""
#define ITM_FAST_BUILD_TORCH "unknown"
#endif

namespace py = pybind11;

namespace {

py::dict build_info() {
  py::dict info;
  info["version"] = ITM_FAST_VERSION;
  info["built_with_torch"] = ITM_FAST_BUILD_TORCH;
#if defined(__clang__)
  info["compiler"] = __VERSION__;
#else
  info["compiler"] = "g++ " __VERSION__;
#endif
  info["no_cuda"] = ITM_FAST_NO_CUDA;  // why itm_fast._cuda was not built; empty: it was
  py::list isas;
#define ITM_ADD_ISA(isa) isas.append(#isa);
  ITM_FOR_EACH_ISA(ITM_ADD_ISA)
#undef ITM_ADD_ISA
  info["cpu_isas"] = isas;
  info["cpu_isa"] = itm::isa_name(itm::isa_choice().isa);
  info["cpu_isa_reason"] = itm::isa_choice().reason;
  const auto f32 = itm::gemm_choice(itm::ScalarType::Float), bf16 = itm::gemm_choice(itm::ScalarType::BFloat16);
  info["gemm_float32"] = f32.name;
  info["gemm_float32_reason"] = f32.reason;
  info["gemm_bfloat16"] = bf16.name;
  info["gemm_bfloat16_reason"] = bf16.reason;
  return info;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Operators of itm_fast (registered with torch on import) and what they run on this machine.";
  m.def("build_info", &build_info, "How this binary was built and what it runs on this processor, with the reasons.");
  itm::bind_ngrams(m);
}
