#include "largest.h"

#include <algorithm>

#include "lists.h"

namespace itm::cuda {
namespace {

// Both batches as the kernels take them.
void prepare(Launch& launch, Roles& roles) {
  auto& [regions_query, context, query] = roles;
  const int64_t padded_dim = round_up(context.dim, 16 / size_in_bytes(context.type()));
  context.prepare(launch, context.max, padded_dim, context.type(), false, false);
  query.prepare(launch, query.max, padded_dim, query.type(), false, false);
}

// With sizes and numbers of the query vectors.
Side prepare_queries(Launch& launch, Roles& roles) {
  prepare(launch, roles);
  return roles.query.plan(launch, kTileQueries, 0, roles.query.n);
}

// How many contexts are taken at a time where each needs so many numbers of 4 bytes for every query vector.
int64_t contexts_at_a_time(const Roles& roles, int64_t numbers) {
  return std::clamp<int64_t>(kScratchBytes / (4 * numbers * query_vectors(roles)), 1, roles.context.n);
}

// The largest similarities of some contexts with all query vectors.
class Largest {
 public:
  Largest(Launch& launch, Roles& roles, const SimilarityOptions& options, const Side& queries, int64_t most)
      : launch_(launch),
        context_(roles.context),
        numbers_(empty(roles.query.vectors, {most, query_vectors(roles)}, ScalarType::Float)) {
    args_.query = queries;
    args_.largest = launch.out<float>(numbers_);
    args_.pitch = query_vectors(roles);
    args_.dim = int32_t(context_.padded_dim);
    args_.multiprocessors = launch.multiprocessors();
    pairs_.largest = args_.largest;
    pairs_.sizes = queries.sizes;
    pairs_.offsets = queries.offsets;
    pairs_.pitch = args_.pitch;
    pairs_.context_stride = roles.context_stride();
    pairs_.query_stride = roles.query_stride();
    pairs_.options = options;
    pairs_.n_queries = int32_t(roles.query.n);
  }

  float* numbers() const { return args_.largest; }

  // Of contexts [first, first + n): scores from the first of all contexts on, or null; rows from `first` on, or null.
  void make(int64_t first, int64_t n, float* scores, int32_t* rows) {
    args_.context = context_.plan(launch_, kTileContexts, first, n);
    args_.rows = rows;
    find_largest(args_, product_of(context_.type()), launch_.stream());
    pairs_.rows = rows;
    pairs_.scores = scores == nullptr ? nullptr : scores + first * pairs_.context_stride;
    pairs_.grad_scores = nullptr;
    pairs_.n_contexts = int32_t(n);
    if (scores != nullptr || pairs_.options.aggregation == Aggregation::kMax) score_largest(pairs_, launch_.stream());
    launch_.check();
  }

  // The largest similarities of n contexts, in numbers(), become their cotangents.
  void differentiate(int64_t n, const float* grad_scores) {
    pairs_.grad_scores = grad_scores;
    pairs_.n_contexts = int32_t(n);
    score_largest(pairs_, launch_.stream());
  }

 private:
  Launch& launch_;
  Groups& context_;
  Tensor numbers_;
  LargestArgs args_{};
  PairsArgs pairs_{};
};

}  // namespace

int64_t query_vectors(const Roles& roles) { return roles.query.n * roles.query.max; }

void score_by_largest(Launch& launch, Roles& roles, const SimilarityOptions& options, const Tensor& scores,
                      const std::optional<Tensor>& rows) {
  const Side queries = prepare_queries(launch, roles);
  const int64_t most = contexts_at_a_time(roles, 1);
  Largest largest(launch, roles, options, queries, most);
  float* out = launch.out<float>(scores);
  int32_t* all_rows = rows.has_value() ? launch.out<int32_t>(*rows) : nullptr;
  for (int64_t first = 0; first < roles.context.n; first += most)
    largest.make(first, std::min(most, roles.context.n - first), out,
                 all_rows == nullptr ? nullptr : all_rows + first * query_vectors(roles));
}

void score_lists_by_largest(Launch& launch, Roles& roles, const SimilarityOptions& options, const Tensor& candidates,
                            bool contexts_own, const Tensor& scores) {
  auto& [regions_query, context, query] = roles;
  Groups &owner = contexts_own ? context : query, &member = contexts_own ? query : context;
  if (member.n > 0) prepare(launch, roles);
  const int64_t length = candidates.size(1), numbers = length * query.max;  // of a list
  Lists lists(launch, member, owner.n, length, contexts_own ? kTileQueries : kTileContexts, 4 * numbers);
  const Tensor largest = empty(scores, {lists.most(), numbers}, ScalarType::Float);
  LargestArgs args{};
  args.largest = launch.out<float>(largest);
  args.pitch = contexts_own ? numbers : query.max;
  args.dim = int32_t(context.padded_dim);
  args.multiprocessors = launch.multiprocessors();
  PairsArgs pairs{};
  pairs.largest = args.largest;
  pairs.pitch = args.pitch;
  (contexts_own ? pairs.query_stride : pairs.context_stride) = 1;  // by place
  pairs.options = options;
  pairs.n_queries = int32_t(length);
  for (int64_t first = 0; first < owner.n; first += lists.most()) {
    const int64_t n = std::min(lists.most(), owner.n - first);
    pairs.scores = launch.out<float>(scores) + first * length;
    const Side members = lists.plan(n, launch.in<int64_t>(candidates) + first * length, pairs.scores);
    if (member.n == 0) continue;
    const Side owners = owner.plan(launch, 1, first, n);
    args.context = contexts_own ? owners : members;
    args.query = contexts_own ? members : owners;
    find_largest(args, product_of(context.type()), launch.stream());
    pairs.sizes = args.query.sizes;
    pairs.offsets = contexts_own ? members.offsets : nullptr;
    pairs.groups = members.groups;
    pairs.n_contexts = int32_t(n);
    score_largest(pairs, launch.stream());
  }
  launch.check();
}

void gradients_by_largest(Launch& launch, Roles& roles, const SimilarityOptions& options, const Tensor& cotangent,
                          const std::optional<Tensor>& kept, const Tensor* grad_context, const Tensor* grad_query) {
  auto& [regions_query, context, query] = roles;
  const Side queries = prepare_queries(launch, roles);
  const Number number = number_of(context.type());
  const int64_t pitch = query_vectors(roles);
  // These cotangents need the similarities themselves, which one product of two vectors each makes from the rows.
  const bool exponentials = options.aggregation == Aggregation::kLogSumExp;
  int64_t most = context.n;
  std::optional<Largest> largest;
  if (exponentials || !kept.has_value()) {
    most = contexts_at_a_time(roles, kept.has_value() ? 1 : 2);
    largest.emplace(launch, roles, options, queries, most);
  }
  const Tensor rows = kept.has_value() ? *kept : empty(query.vectors, {most, pitch}, ScalarType::Int);
  const Tensor sources = empty(query.vectors, {pitch}, ScalarType::Int);
  std::optional<Tensor> sums;
  if (grad_query != nullptr && most < context.n)
    sums = empty(query.vectors, {query.n, query.max, query.padded_dim}, ScalarType::Float);

  GatherArgs args{};
  args.query = launch.in<void>(query.prepared);
  args.rows = kept.has_value() ? launch.in<int32_t>(rows) : launch.out<int32_t>(rows);
  args.weights = exponentials ? largest->numbers() : nullptr;
  args.sources = launch.out<int32_t>(sources);
  args.sizes = queries.sizes;
  args.offsets = queries.offsets;
  args.sums = sums.has_value() ? launch.out<float>(*sums) : nullptr;
  args.pitch = pitch;
  args.context_stride = roles.context_stride();
  args.query_stride = roles.query_stride();
  args.n_queries = int32_t(query.n);
  args.context_max = int32_t(context.max);
  args.query_max = int32_t(query.max);
  args.dim = int32_t(context.dim);
  args.padded_dim = int32_t(context.padded_dim);
  args.means = options.aggregation == Aggregation::kMean;
  place_queries(args, launch.stream());
  const int32_t* all_rows = args.rows;
  for (int64_t first = 0; first < context.n; first += most) {
    const int64_t n = std::min(most, context.n - first);
    args.context =
        launch.in<char>(context.prepared) + first * context.max * context.padded_dim * size_in_bytes(context.type());
    args.grad_scores = launch.in<float>(cotangent) + first * args.context_stride;
    args.n_contexts = int32_t(n);
    if (kept.has_value())
      args.rows = all_rows + first * pitch;
    else
      largest->make(first, n, nullptr, launch.out<int32_t>(rows));
    if (exponentials) {
      multiply_chosen(args, number, launch.stream());
      largest->differentiate(n, args.grad_scores);
    }
    if (grad_context != nullptr) {
      args.out = launch.out<char>(*grad_context) + first * context.max * context.dim * size_in_bytes(context.type());
      gather_contexts(args, number, launch.stream());
    }
    if (grad_query != nullptr) {
      args.out = launch.out<void>(*grad_query);
      args.first_round = first == 0;
      args.last_round = first + n == context.n;
      gather_queries(args, number, launch.stream());
    }
    launch.check();
  }
}

}  // namespace itm::cuda
