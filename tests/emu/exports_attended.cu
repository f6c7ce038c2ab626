// Launchers of csrc/cuda by name, for tests. No kernel's header is included here: a copy without hooks would be linked.
#include "attended_vectors.h"

#define EMU_EXPORT extern "C" __attribute__((visibility("default")))

EMU_EXPORT void attended_vectors_(const itm::cuda::AttendedVectorsArgs* args, int number) {
  itm::cuda::attended_vectors(*args, itm::cuda::Number(number), nullptr);
}
EMU_EXPORT void attended_rows_(const itm::cuda::AttendedRowsArgs* args, int number) {
  itm::cuda::attended_rows(*args, itm::cuda::Number(number), nullptr);
}
EMU_EXPORT void attended_gradients_(const itm::cuda::AttendedGradientsArgs* args, int number) {
  itm::cuda::attended_gradients(*args, itm::cuda::Number(number), nullptr);
}
EMU_EXPORT void attended_words_(const itm::cuda::AttendedWordsArgs* args, int number) {
  itm::cuda::attended_words(*args, itm::cuda::Number(number), nullptr);
}
