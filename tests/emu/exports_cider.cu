// Launchers of csrc/cuda by name, for tests. No kernel's header is included here: a copy without hooks would be linked.
#include "cider.h"

#define EMU_EXPORT extern "C" __attribute__((visibility("default")))

EMU_EXPORT void cider_block(const itm::cuda::CiderArgs* args, int number) {
  itm::cuda::cider_block(*args, itm::cuda::Number(number), nullptr);
}
EMU_EXPORT void cider_pairs(const itm::cuda::CiderArgs* args, int number) {
  itm::cuda::cider_pairs(*args, itm::cuda::Number(number), nullptr);
}
