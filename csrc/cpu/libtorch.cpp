#include "libtorch.h"

#include <dlfcn.h>

namespace itm {
namespace {

template <class Function>
Function find(const char* mangled) {
  return reinterpret_cast<Function>(dlsym(RTLD_DEFAULT, mangled));  // libtorch_cpu is one of this library's own
}

// A const member function of at::Context.
using OfContext = bool (*)(const void*);

// Asks the global one.
bool ask(OfContext member, bool otherwise) {
  static const auto context = find<const void* (*)()>("_ZN2at13globalContextEv");
  return context == nullptr || member == nullptr ? otherwise : member(context());
}

}  // namespace

template <>
Brgemm<float> find_brgemm() {
  return find<Brgemm<float>>("_ZN2at6native7cpublas6brgemmEllllllbPKfS3_Pfb");
}
template <>
Brgemm<torch::headeronly::BFloat16> find_brgemm() {
  return find<Brgemm<torch::headeronly::BFloat16>>("_ZN2at6native7cpublas6brgemmEllllllbPKN3c108BFloat16ES5_Pfb");
}

void brgemm_release() {
  static const auto release = find<void (*)(bool)>("_ZN2at6native7cpublas14brgemm_releaseEb");
  if (release != nullptr) release(true);
}

bool mkldnn_enabled() {
  static const auto enabled = find<OfContext>("_ZNK2at7Context17userEnabledMkldnnEv");
  return ask(enabled, true);
}

bool tf32_allowed() {
  static const auto allowed = find<OfContext>("_ZNK2at7Context15allowTF32CuBLASEv");
  return ask(allowed, false);
}

}  // namespace itm
