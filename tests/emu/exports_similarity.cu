// Launchers of the similarities' kernels by name, for tests.
#include "similarity.h"

#define EMU_EXPORT extern "C" __attribute__((visibility("default")))

using namespace itm::cuda;

EMU_EXPORT void prepare_vectors_(const VectorsArgs* args, int from, int to) {
  prepare_vectors(*args, Number(from), Number(to), nullptr);
}
EMU_EXPORT void plan_tiles_(const PlanArgs* args) { plan_tiles(*args, nullptr); }
EMU_EXPORT void plan_lists_(const ListsArgs* args) { plan_lists(*args, nullptr); }
EMU_EXPORT void gram_tiles_(const GramArgs* args, int product) { gram_tiles(*args, Product(product), nullptr); }
EMU_EXPORT void score_tiles_(const TilesArgs* args, int product) { score_tiles(*args, Product(product), nullptr); }
EMU_EXPORT void find_largest_(const LargestArgs* args, int product) { find_largest(*args, Product(product), nullptr); }
EMU_EXPORT void score_largest_(const PairsArgs* args) { score_largest(*args, nullptr); }
EMU_EXPORT void place_queries_(const GatherArgs* args) { place_queries(*args, nullptr); }
EMU_EXPORT void multiply_chosen_(const GatherArgs* args, int number) {
  multiply_chosen(*args, Number(number), nullptr);
}
EMU_EXPORT void gather_contexts_(const GatherArgs* args, int number) {
  gather_contexts(*args, Number(number), nullptr);
}
EMU_EXPORT void gather_queries_(const GatherArgs* args, int number) { gather_queries(*args, Number(number), nullptr); }
EMU_EXPORT void score_chunk_(const ChunkArgs* args, int number, int on_chip) {
  score_chunk(*args, Number(number), on_chip != 0, nullptr);
}
EMU_EXPORT void gradient_chunk_(const ChunkArgs* args, int number, int grad_type, int on_chip) {
  gradient_chunk(*args, Number(number), Number(grad_type), on_chip != 0, nullptr);
}
EMU_EXPORT void split_gram_(const SplitGramArgs* args) { split_gram(*args, nullptr); }
EMU_EXPORT void attend_chunk_(const AttentionArgs* args, int columns, int threads) {
  attend_chunk(*args, {columns, threads}, nullptr);
}
EMU_EXPORT void finish_gradients_(const GradientsArgs* args, int number, int vectors, int out) {
  finish_gradients(*args, Number(number), Number(vectors), Number(out), nullptr);
}
EMU_EXPORT void scale_for_float16_(const float* grad_scores, int n, float* scale) {
  scale_for_float16(grad_scores, n, scale, nullptr);
}
