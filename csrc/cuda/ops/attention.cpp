#include "attention.h"

#include <algorithm>

#include "products.h"

namespace itm::cuda {
namespace {

AttentionBlock block_of(const Launch& launch, int64_t max) {
  return attention_block(round_up(max, 8), launch.shared_limit());
}

}  // namespace

bool attention_fits(const Launch& launch, int64_t max) { return block_of(launch, max).columns > 0; }

void score_by_attention(Launch& launch, Roles& roles, const SimilarityOptions& options, const Tensor& scores) {
  auto& [regions_query, context, query] = roles;
  const ScalarType wide = ScalarType::Float;
  const AttentionBlock block = block_of(launch, context.max);
  const int64_t padded_dim = round_up(context.dim, 8);
  context.prepare(launch, round_up(context.max, 8), padded_dim, context.type(), false, true);
  query.prepare(launch, round_up(query.max, 8), padded_dim, query.type(), true, true);
  const Side plan = query.plan(launch, kTileQueries, 0, query.n);  // sizes and offsets are what is read of it
  launch.check();

  // Gram matrices and cosines of many contexts at a time, S of few with all queries, or of one with some.
  const int64_t steps = attention_steps(context.pitch), rows = attention_rows(context.pitch);
  const int64_t values_pitch = round_up(query.n * query.max, 8);
  const int64_t of_context = 4 * context.pitch * context.pitch + kStepBytes * steps + 4 * values_pitch;
  const int64_t most = std::clamp<int64_t>(kScratchBytes / of_context, 1, context.n);
  const int64_t of_pair = 4 * context.pitch * query.pitch;
  const int64_t n_contexts = std::clamp<int64_t>(kCachedBytes / (of_pair * query.n), 1, most);
  const int64_t n_queries = std::clamp<int64_t>(kCachedBytes / of_pair, 1, query.n);
  const Tensor gram = empty(scores, {most, context.pitch, context.pitch}, wide);
  const Tensor parts = empty(scores, {most, steps, kStepBytes / 4}, wide);
  const Tensor powers = empty(scores, {most, rows}, wide), units = empty(scores, {most}, wide);
  const Tensor values = empty(scores, {most, values_pitch}, wide);
  const Tensor sims = empty(scores, {n_contexts * context.pitch * n_queries * query.pitch}, wide);
  const Tensor numbers = empty(scores, {n_contexts * n_queries * context.pitch}, wide);

  AttentionArgs args{};
  args.values_pitch = values_pitch;
  args.options = options;
  args.context_max = int32_t(context.max);
  args.context_pitch = int32_t(context.pitch);
  args.query_pitch = int32_t(query.pitch);
  Tensor queries = torch::stable::view(query.prepared, std::vector<int64_t>{query.n * query.pitch, padded_dim});
  for (int64_t first = 0; first < context.n; first += most) {
    const int64_t n = std::min(most, context.n - first);
    auto contexts = [&](int64_t from, int64_t of) {
      Tensor all = context.prepared;
      return torch::stable::narrow(all, 0, from, of);
    };
    Tensor vectors = contexts(first, n), all_grams = gram;
    product_into(torch::stable::narrow(all_grams, 0, 0, n), vectors, torch::stable::transpose(vectors, 1, 2));
    split_gram({launch.in<float>(gram), launch.out<void>(parts), launch.out<float>(powers), launch.out<float>(units),
                int32_t(n), int32_t(context.pitch)},
               launch.stream());
    for (int64_t c = 0; c < n; c += n_contexts)
      for (int64_t q = 0; q < query.n; q += n_queries) {
        const int64_t some = std::min(n_contexts, n - c), few = std::min(n_queries, query.n - q);
        const int64_t height = some * context.pitch, width = few * query.pitch;
        Tensor flat = sims, rows_of = contexts(first + c, some), of_queries = queries;
        const Tensor part =
            torch::stable::view(torch::stable::narrow(flat, 0, 0, height * width), std::vector<int64_t>{height, width});
        of_queries = torch::stable::narrow(of_queries, 0, q * query.pitch, width);
        product_into(part, torch::stable::view(rows_of, std::vector<int64_t>{height, padded_dim}),
                     torch::stable::transpose(of_queries, 0, 1));
        args.sims = launch.in<float>(sims);
        args.context_counts = context.counts.has_value() ? launch.in<int64_t>(*context.counts) + first + c : nullptr;
        args.query_sizes = plan.sizes + q;
        args.query_offsets = plan.offsets + q;
        args.norms = launch.in<float>(*query.norms) + q * query.pitch;
        args.numbers = launch.out<float>(numbers);
        args.gram = launch.in<char>(parts) + c * steps * kStepBytes;
        args.powers = launch.in<float>(powers) + c * rows;
        args.units = launch.in<float>(units) + c;
        args.values = launch.inout<float>(values) + c * values_pitch;
        args.n_contexts = int32_t(some);
        args.n_queries = int32_t(few);
        attend_chunk(args, block, launch.stream());
        launch.check();
      }
    PairsArgs pairs{};
    pairs.largest = launch.inout<float>(values);
    pairs.sizes = plan.sizes;
    pairs.offsets = plan.offsets;
    pairs.scores = launch.out<float>(scores) + first * roles.context_stride();
    pairs.pitch = values_pitch;
    pairs.context_stride = roles.context_stride();
    pairs.query_stride = roles.query_stride();
    pairs.options = options;
    pairs.n_contexts = int32_t(n);
    pairs.n_queries = int32_t(query.n);
    score_largest(pairs, launch.stream());
    launch.check();
  }
}

}  // namespace itm::cuda
