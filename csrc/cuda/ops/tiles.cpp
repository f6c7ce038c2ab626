#include "tiles.h"

#include <algorithm>

#include "lists.h"

namespace itm::cuda {
namespace {

// Arguments without the plans; where there is attention, with the plan of the contexts that the Gram matrices need.
TilesArgs prepare_tiles(Launch& launch, Roles& roles, const SimilarityOptions& options, std::optional<Tensor>& gram) {
  auto& [regions_query, context, query] = roles;
  const bool attends = options.attends != 0;
  const ScalarType type = context.type();
  const int64_t padded_dim = round_up(context.dim, 16 / size_in_bytes(type)), gram_pitch = round_up(context.max, 8);
  context.prepare(launch, context.max, padded_dim, type, false, false);
  query.prepare(launch, query.max, padded_dim, type, attends, false);
  TilesArgs args{};
  args.options = options;
  args.dim = int32_t(padded_dim);
  args.gram_blocks = int32_t(gram_blocks(gram_pitch));
  args.norm_pitch = int32_t(query.pitch);
  args.multiprocessors = launch.multiprocessors();
  if (!attends) return args;
  args.context = context.plan(launch, kTileContexts, 0, context.n);
  gram = empty(context.vectors, {context.n, args.gram_blocks, kGramBlock}, ScalarType::Float);
  gram_tiles({args.context, launch.out<float>(*gram), args.dim, int32_t(gram_pitch), args.multiprocessors},
             product_of(type), launch.stream());
  args.gram = launch.inout<float>(*gram);
  args.norms = launch.inout<float>(*query.norms);
  return args;
}

}  // namespace

bool tiles_fit(const Launch& launch, const Roles& roles) {
  return roles.context.type() != ScalarType::Double && launch.has_tile_kernels() && roles.context.max <= kTileVectors &&
         roles.query.max <= kTileVectors;
}

void score_by_tiles(Launch& launch, Roles& roles, const SimilarityOptions& options, const Tensor& scores) {
  auto& [regions_query, context, query] = roles;
  std::optional<Tensor> gram;
  TilesArgs args = prepare_tiles(launch, roles, options, gram);
  if (options.attends == 0) args.context = context.plan(launch, kTileContexts, 0, context.n);
  args.query = query.plan(launch, kTileQueries, 0, query.n);
  args.scores = launch.out<float>(scores);
  args.context_stride = roles.context_stride();
  args.query_stride = roles.query_stride();
  score_tiles(args, product_of(context.type()), launch.stream());
  launch.check();
}

void score_lists_by_tiles(Launch& launch, Roles& roles, const SimilarityOptions& options, const Tensor& candidates,
                          bool contexts_own, const Tensor& scores) {
  auto& [regions_query, context, query] = roles;
  Groups &owner = contexts_own ? context : query, &member = contexts_own ? query : context;
  std::optional<Tensor> gram;
  TilesArgs args{};
  if (member.n > 0) args = prepare_tiles(launch, roles, options, gram);
  (contexts_own ? args.query_stride : args.context_stride) = 1;  // the owner's place in a list's row is any member's
  const int64_t length = candidates.size(1);
  Lists lists(launch, member, owner.n, length, contexts_own ? kTileQueries : kTileContexts);
  const float *grams = args.gram, *norms = args.norms;
  for (int64_t first = 0; first < owner.n; first += lists.most()) {
    const int64_t n = std::min(lists.most(), owner.n - first);
    float* out = launch.out<float>(scores) + first * length;
    const Side members = lists.plan(n, launch.in<int64_t>(candidates) + first * length, out);
    if (member.n == 0) continue;
    const Side owners = owner.plan(launch, 1, first, n);
    args.context = contexts_own ? owners : members;
    args.query = contexts_own ? members : owners;
    if (options.attends != 0) {
      args.gram = grams + (contexts_own ? first * args.gram_blocks * kGramBlock : 0);
      args.norms = norms + (contexts_own ? 0 : first * args.norm_pitch);
    }
    args.scores = out;
    score_tiles(args, product_of(context.type()), launch.stream());
  }
  launch.check();
}

}  // namespace itm::cuda
