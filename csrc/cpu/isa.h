// Run-time choice of instruction set. The kernels (*.inl) are compiled once per set, each in a namespace of its own,
// without any -m flag: one binary runs everywhere. ITM_FAST_CPU=base|avx2|avx512 forces a set, so that tests run each.
#pragma once

#include <string>

#if defined(__x86_64__) || defined(__i386__)
#define ITM_X86 1
#define ITM_FOR_EACH_ISA(macro) macro(base) macro(avx2) macro(avx512)
#else
#define ITM_X86 0
#define ITM_FOR_EACH_ISA(macro) macro(base)
#endif

namespace itm {

enum class Isa { kBase, kAvx2, kAvx512 };

struct IsaChoice {
  Isa isa;
  std::string reason;
};

// The choice for this process; throws std::invalid_argument where ITM_FAST_CPU asks for what is unknown or not there.
const IsaChoice& isa_choice();
const char* isa_name(Isa isa);

#if ITM_X86
#define ITM_PICK(...)                                                           \
  (::itm::isa_choice().isa == ::itm::Isa::kAvx512 ? &::itm::avx512::__VA_ARGS__ \
   : ::itm::isa_choice().isa == ::itm::Isa::kAvx2 ? &::itm::avx2::__VA_ARGS__   \
                                                  : &::itm::base::__VA_ARGS__)
#else
#define ITM_PICK(...) (&::itm::base::__VA_ARGS__)
#endif

}  // namespace itm
