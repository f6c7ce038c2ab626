#include "largest.h"

#include <algorithm>

namespace itm::cuda {
namespace {

// The largest similarities of some contexts with all query vectors.
class Largest {
 public:
  Largest(Launch& launch, Roles& roles, const SimilarityOptions& options, bool backward)
      : launch_(launch), context_(roles.context), query_(roles.query), backward_(backward) {
    const ScalarType type = context_.type();
    const int64_t padded_dim = round_up(context_.dim, 16 / size_in_bytes(type));
    context_.prepare(launch, context_.max, padded_dim, type, false, false);
    query_.prepare(launch, query_.max, padded_dim, type, false, false);
    args_.query = query_.plan(launch, kTileQueries, 0, query_.n);
    args_.pitch = round_up(query_.n * query_.max, 8);
    args_.dim = int32_t(padded_dim);
    args_.multiprocessors = launch.multiprocessors();
    const int64_t per_context = args_.pitch * (backward ? 8 : 4);  // a number, and the row that reaches it
    most_ = std::clamp<int64_t>(kScratchBytes / per_context, 1, context_.n);
    largest_ = empty(query_.vectors, {most_, args_.pitch}, ScalarType::Float);
    args_.largest = launch.out<float>(largest_);
    if (backward) {
      rows_ = empty(query_.vectors, {most_, args_.pitch}, ScalarType::Int);
      sources_ = empty(query_.vectors, {args_.pitch}, ScalarType::Int);
      args_.rows = launch.out<int32_t>(*rows_);
      args_.sources = launch.out<int32_t>(*sources_);
    }
    pairs_.largest = args_.largest;
    pairs_.sizes = args_.query.sizes;
    pairs_.offsets = args_.query.offsets;
    pairs_.pitch = args_.pitch;
    pairs_.context_stride = roles.context_stride();
    pairs_.query_stride = roles.query_stride();
    pairs_.options = options;
    pairs_.n_queries = int32_t(query_.n);
  }

  // Contexts at a time.
  int64_t most() const { return most_; }

  // Of contexts [first, first + n): scores, or cotangents in the place of the largest similarities.
  void make(int64_t first, int64_t n, float* scores, const float* grad_scores) {
    args_.context = context_.plan(launch_, kTileContexts, first, n);
    find_largest(args_, product_of(context_.type()), launch_.stream());
    pairs_.scores = backward_ ? nullptr : scores + first * pairs_.context_stride;
    pairs_.grad_scores = backward_ ? grad_scores + first * pairs_.context_stride : nullptr;
    pairs_.n_contexts = int32_t(n);
    score_largest(pairs_, launch_.stream());
    launch_.check();
  }

  // After make() of the backward pass, for the same contexts.
  GatherArgs gather() const {
    GatherArgs args{};
    args.context = args_.context.data;
    args.query = args_.query.data;
    args.weights = args_.largest;
    args.rows = args_.rows;
    args.sources = args_.sources;
    args.sizes = args_.query.sizes;
    args.offsets = args_.query.offsets;
    args.pitch = args_.pitch;
    args.n_contexts = pairs_.n_contexts;
    args.n_queries = pairs_.n_queries;
    args.context_max = int32_t(context_.max);
    args.query_max = int32_t(query_.max);
    args.dim = int32_t(context_.dim);
    args.padded_dim = args_.dim;
    return args;
  }

 private:
  Launch& launch_;
  Groups &context_, &query_;
  bool backward_;
  int64_t most_ = 1;
  LargestArgs args_{};
  PairsArgs pairs_{};
  Tensor largest_;
  std::optional<Tensor> rows_, sources_;
};

}  // namespace

void score_by_largest(Launch& launch, Roles& roles, const SimilarityOptions& options, const Tensor& scores) {
  Largest largest(launch, roles, options, false);
  float* out = launch.out<float>(scores);
  for (int64_t first = 0; first < roles.context.n; first += largest.most())
    largest.make(first, std::min(largest.most(), roles.context.n - first), out, nullptr);
}

void gradients_by_largest(Launch& launch, Roles& roles, const SimilarityOptions& options, const Tensor& cotangent,
                          const Tensor* grad_context, const Tensor* grad_query) {
  auto& [regions_query, context, query] = roles;
  Largest largest(launch, roles, options, true);
  const Number number = number_of(context.type());
  const float* grad_scores = launch.in<float>(cotangent);
  std::optional<Tensor> sums;
  if (grad_query != nullptr && largest.most() < context.n)
    sums = empty(query.vectors, {query.n, query.max, query.padded_dim}, ScalarType::Float);
  for (int64_t first = 0; first < context.n; first += largest.most()) {
    const int64_t n = std::min(largest.most(), context.n - first);
    largest.make(first, n, nullptr, grad_scores);
    GatherArgs args = largest.gather();
    if (grad_context != nullptr) {
      args.out = launch.out<char>(*grad_context) + first * context.max * context.dim * size_in_bytes(context.type());
      gather_contexts(args, number, launch.stream());
    }
    if (grad_query != nullptr) {
      args.out = launch.out<void>(*grad_query);
      args.sums = sums.has_value() ? launch.out<float>(*sums) : nullptr;
      args.first_round = first == 0;
      args.last_round = first + n == context.n;
      gather_queries(args, number, launch.stream());
    }
    launch.check();
  }
}

}  // namespace itm::cuda
