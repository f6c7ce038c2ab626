// Launchers of csrc/cuda by name, for tests. No kernel's header is included here: a copy without hooks would be linked.
#include "semantic_margin.h"

#define EMU_EXPORT extern "C" __attribute__((visibility("default")))

EMU_EXPORT void semantic_margin_chosen(const itm::cuda::SemanticMarginArgs* args, int number) {
  itm::cuda::semantic_margin_chosen(*args, itm::cuda::Number(number), nullptr);
}
EMU_EXPORT void semantic_margin_all(const itm::cuda::SemanticMarginArgs* args, int number) {
  itm::cuda::semantic_margin_all(*args, itm::cuda::Number(number), nullptr);
}
