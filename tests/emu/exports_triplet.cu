// Launchers of csrc/cuda by name, for tests. No kernel's header is included here: a copy without hooks would be linked.
#include "hinge.h"

#define EMU_EXPORT extern "C" __attribute__((visibility("default")))

EMU_EXPORT void triplet_all(const itm::cuda::TripletArgs* args, int number) {
  itm::cuda::triplet_all(*args, itm::cuda::Number(number), nullptr);
}
EMU_EXPORT void triplet_hardest(const itm::cuda::TripletArgs* args, int number) {
  itm::cuda::triplet_hardest(*args, itm::cuda::Number(number), nullptr);
}
