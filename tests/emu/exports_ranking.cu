// Launchers of the ranking kernels by name, for tests.
#include "ranking.h"

#define EMU_EXPORT extern "C" __attribute__((visibility("default")))

using namespace itm::cuda;

EMU_EXPORT void find_nan_(const NanArgs* args, int number) { find_nan(*args, Number(number), nullptr); }
EMU_EXPORT void count_ranks_(const CountArgs* args, int number) { count_ranks(*args, Number(number), nullptr); }
EMU_EXPORT void keep_topk_(const KeepArgs* args, int number, int on_chip) {
  keep_topk(*args, Number(number), on_chip != 0, nullptr);
}
EMU_EXPORT void transpose_scores_(const TransposeArgs* args, int number) {
  transpose_scores(*args, Number(number), nullptr);
}
