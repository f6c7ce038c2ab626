#include "similarity.h"

#include <algorithm>

#include "../listed_products.h"
#include "attention.h"
#include "groups.h"
#include "largest.h"
#include "products.h"
#include "tiles.h"

namespace itm::cuda {
namespace {

constexpr int kBlocksPerMultiprocessor = 4;  // that a launch should have, where the work can be split so far

// S of some contexts with all queries, its Gram matrices, and the kernels' arguments for them.
class Chunks {
 public:
  Chunks(Launch& launch, Roles& roles, const SimilarityOptions& options, bool backward)
      : launch_(launch), context_(roles.context), query_(roles.query), backward_(backward), wide_(context_.wide()) {
    // Copies of 16 bits where gradients of S in 16 bits are multiplied with them.
    const ScalarType copy = launch.has_tile_kernels() ? context_.type() : wide_;
    const int64_t padded_dim = round_up(context_.dim, 8);
    context_.prepare(launch, round_up(context_.max, 4), padded_dim, copy, backward && options.attends != 0, true);
    query_.prepare(launch, round_up(query_.max, 8), padded_dim, copy, options.attends != 0, true);
    launch.check();
    // Some contexts with all queries; where that is too much for one context, forward only, one with some queries. The
    // backward pass takes more at a time: the queries' gradients are read and written once for each part.
    const int64_t per_pair = context_.pitch * query_.pitch * size_in_bytes(wide_);
    const int64_t room = backward ? kScratchBytes : kCachedBytes;
    n_contexts_ = std::clamp<int64_t>(room / (per_pair * query_.n), 1, context_.n);
    n_queries_ = backward ? query_.n : std::clamp<int64_t>(room / per_pair, 1, query_.n);
    args_.context_stride = roles.context_stride();
    args_.query_stride = roles.query_stride();
    args_.options = options;
    args_.context_max = int32_t(context_.max);
    args_.query_max = int32_t(query_.max);
    args_.context_pitch = int32_t(context_.pitch);
    args_.query_pitch = int32_t(query_.pitch);
    args_.queries_per_tile = int32_t(std::max<int64_t>(1, kChunkColumns / query_.pitch));
    // On chip where two blocks fit into a multiprocessor.
    on_chip_ =
        wide_ == ScalarType::Float && chunk_shared_bytes(args_, number(), backward, true) <= launch.shared_limit() / 2;
    in_parts_ =
        backward && options.attends != 0 && wide_ == ScalarType::Float && !on_chip_ && launch.has_fast_tensor_cores();
    args_.gram_numbers = in_parts_ ? args_.context_pitch * args_.context_pitch : lower_numbers(args_.context_pitch);
    const int64_t bytes = chunk_shared_bytes(args_, number(), backward, on_chip_);
    STD_TORCH_CHECK(bytes <= launch.shared_limit(), "groups of ", context_.max, " and ", query_.max, " vectors need ",
                    bytes, " bytes of shared memory, the device has ", launch.shared_limit());
  }

  Number number() const { return number_of(wide_); }
  int64_t columns() const { return query_.n * query_.pitch; }
  int64_t n_contexts() const { return n_contexts_; }
  int64_t n_queries() const { return n_queries_; }
  bool on_chip() const { return on_chip_; }
  const Tensor& sims() const { return sims_; }
  // Parts that the Gram matrices' gradient is the sum of.
  int64_t sums() const { return in_parts_ ? 1 : args_.splits; }

  // dS, kappa and `square`, the Gram matrices' gradient.
  void gradients(ChunkArgs& args, ScalarType grad_type, const std::optional<Tensor>& square) {
    auto launch_part = [&](ChunkPart part) {
      args.part = part;
      gradient_chunk(args, number(), number_of(grad_type), on_chip_, launch_.stream());
      launch_.check();
    };
    if (!in_parts_) return launch_part(ChunkPart::kWhole);
    const int32_t n = args.n_contexts, pitch = args.context_pitch, width = int32_t(columns());
    auto multiply = [&](const Tensor& left, const Tensor& right, int32_t right_rows, int32_t dim, const Tensor& out) {
      const ListedSide of_left{launch_.in<void>(left), nullptr, n, pitch};
      const ListedSide of_right{launch_.in<void>(right), nullptr, n, right_rows};
      multiply_lists({of_left, of_right, nullptr, nullptr, launch_.out<float>(out), n, 1, dim}, Product::kTf32x3,
                     launch_.stream());
      launch_.check();
    };
    launch_part(ChunkPart::kWeights);
    multiply(gram_, weights_, width, pitch, products_);
    launch_part(ChunkPart::kRest);
    multiply(products_, weights_, pitch, width, *square);
    args.splits = 1;  // of `square`
  }

  Tensor rows_of(int64_t first, int64_t n) {
    Tensor part = torch::stable::narrow(context_.prepared, 0, first, n);
    return torch::stable::view(part, std::vector<int64_t>{n * context_.pitch, context_.padded_dim});
  }
  Tensor queries() { return torch::stable::view(query_.prepared, std::vector<int64_t>{columns(), query_.padded_dim}); }

  // Makes S of contexts [first, first + n) with queries [first_query, first_query + n_queries) and returns the
  // arguments for them, scores and gradients left out.
  ChunkArgs& make(int64_t first, int64_t n, int64_t first_query, int64_t n_queries) {
    Tensor all = queries();
    Tensor some = torch::stable::narrow(all, 0, first_query * query_.pitch, n_queries * query_.pitch);
    sims_ = empty(context_.vectors, {n * context_.pitch, n_queries * query_.pitch}, wide_);
    product_into(sims_, rows_of(first, n), torch::stable::transpose(some, 0, 1));
    args_.sims = launch_.inout<void>(sims_);
    args_.query_counts = query_.counts.has_value() ? launch_.in<int64_t>(*query_.counts) + first_query : nullptr;
    const int64_t norms = first_query * query_.pitch * size_in_bytes(wide_);
    args_.norms = query_.norms.has_value() ? launch_.in<char>(*query_.norms) + norms : nullptr;
    args_.n_queries = int32_t(n_queries);
    const int64_t n_tiles = (n_queries + args_.queries_per_tile - 1) / args_.queries_per_tile;
    const int64_t wanted = kBlocksPerMultiprocessor * launch_.multiprocessors();
    args_.splits = int32_t(std::clamp<int64_t>((wanted + n - 1) / n, 1, n_tiles));
    STD_TORCH_CHECK(on_chip_ || sims_.numel() < (int64_t(1) << 31) * n, "a group of ", context_.max, " vectors with ",
                    n_queries, " groups is too much at a time: take fewer");
    if (args_.options.attends != 0) {
      Tensor vectors = torch::stable::narrow(context_.prepared, 0, first, n);
      gram_ = empty(context_.vectors, {n, context_.pitch, context_.pitch}, wide_);
      product_into(gram_, vectors, torch::stable::transpose(vectors, 1, 2));
      args_.gram = launch_.in<void>(gram_);
    }
    if (backward_ && !on_chip_) {
      weights_ = (in_parts_ ? zeros : empty)(sims_, {n * context_.pitch, columns()}, wide_);
      products_ = empty(sims_, {n * context_.pitch, columns()}, wide_);
      args_.weights = launch_.out<void>(weights_);
      args_.products = launch_.out<void>(products_);
    }
    args_.context_counts = context_.counts.has_value() ? launch_.in<int64_t>(*context_.counts) + first : nullptr;
    args_.n_contexts = int32_t(n);
    return args_;
  }

 private:
  Launch& launch_;
  Groups &context_, &query_;
  bool backward_;
  ScalarType wide_;
  int64_t n_contexts_ = 1, n_queries_ = 1;
  bool on_chip_ = false, in_parts_ = false;
  ChunkArgs args_{};
  Tensor sims_, gram_, weights_, products_;
};

void score_by_chunks(Launch& launch, Roles& roles, const SimilarityOptions& options, const Tensor& scores) {
  Chunks chunks(launch, roles, options, false);
  char* out = launch.out<char>(scores);
  for (int64_t c = 0; c < roles.context.n; c += chunks.n_contexts())
    for (int64_t q = 0; q < roles.query.n; q += chunks.n_queries()) {
      ChunkArgs& args = chunks.make(c, std::min(chunks.n_contexts(), roles.context.n - c), q,
                                    std::min(chunks.n_queries(), roles.query.n - q));
      args.scores = out + (c * args.context_stride + q * args.query_stride) * size_in_bytes(scores.scalar_type());
      score_chunk(args, chunks.number(), chunks.on_chip(), launch.stream());
      launch.check();
    }
}

// Writes the gradient of groups [first, first + n) of one side.
void finish(Launch& launch, const Groups& of, const Tensor& out, int64_t first, int64_t n, const Tensor& product,
            const std::optional<Tensor>& square, const std::optional<Tensor>& kappa, const ChunkArgs& chunk) {
  GradientsArgs args{};
  const int64_t vectors = first * of.pitch * of.padded_dim;
  args.product = launch.in<void>(product);
  args.vectors = launch.in<char>(of.prepared) + vectors * size_in_bytes(of.prepared.scalar_type());
  args.square = launch.in<void>(square);
  args.kappa = launch.in<void>(kappa);
  args.norms =
      of.norms.has_value() ? launch.in<char>(*of.norms) + first * of.pitch * size_in_bytes(of.wide()) : nullptr;
  args.counts = of.counts.has_value() ? launch.in<int64_t>(*of.counts) + first : nullptr;
  args.out = launch.out<char>(out) + first * of.max * of.dim * size_in_bytes(of.type());
  args.n_groups = int32_t(n);
  args.max = int32_t(of.max);
  args.dim = int32_t(of.dim);
  args.pitch = int32_t(of.pitch);
  args.padded_dim = int32_t(of.padded_dim);
  args.scale = chunk.scale;
  args.splits = chunk.splits;
  args.square_numbers = chunk.gram_numbers;
  finish_gradients(args, number_of(of.wide()), number_of(of.prepared), number_of(of.type()), launch.stream());
  launch.check();
}

// Whether largest.cu has kernels for the vectors of both sides.
bool streams(const Launch& launch, const Roles& roles) {
  return roles.context.type() != ScalarType::Double && launch.has_tile_kernels();
}

// a + b.
Tensor sum_of(const Tensor& a, const Tensor& b) { return torch::stable::subtract(a, b, -1.0); }

}  // namespace

Tensor similarity_forward(const char* op, const SimilarityInputs& inputs, const SimilarityOptions& options) {
  Roles roles(inputs);
  const Tensor scores = empty(inputs.regions, {inputs.regions.size(0), inputs.words.size(0)}, roles.context.wide());
  if (scores.numel() == 0) return scores;
  Launch launch(op, inputs.regions);
  if (tiles_fit(launch, roles))
    score_by_tiles(launch, roles, options, scores);
  else if (!streams(launch, roles))
    score_by_chunks(launch, roles, options, scores);
  else if (options.attends == 0)
    score_by_largest(launch, roles, options, scores, std::nullopt);
  else
    (attention_fits(launch, roles.context.max) ? score_by_attention : score_by_chunks)(launch, roles, options, scores);
  return scores;
}

std::tuple<Tensor, Tensor> kept_forward(const char* op, const SimilarityInputs& inputs,
                                        const SimilarityOptions& options) {
  Roles roles(inputs);
  const Tensor scores = empty(inputs.regions, {inputs.regions.size(0), inputs.words.size(0)}, ScalarType::Float);
  // Of ragged queries the kernels leave something out.
  const Tensor rows = (roles.query.counts.has_value() ? zeros : empty)(
      inputs.regions, {roles.context.n, query_vectors(roles)}, ScalarType::Int);
  if (scores.numel() == 0) return {scores, rows};
  Launch launch(op, inputs.regions);
  STD_TORCH_CHECK(streams(launch, roles), op,
                  ": rows are kept of float32, bfloat16 and float16, on compute capability ", "8.0 and newer");
  score_by_largest(launch, roles, options, scores, rows);
  return {scores, rows};
}

Tensor candidates_forward(const char* op, const SimilarityInputs& inputs, const Tensor& candidates, bool of_captions,
                          const SimilarityOptions& options) {
  Roles roles(inputs);
  const int64_t n_lists = (of_captions ? inputs.words : inputs.regions).size(0);
  STD_TORCH_CHECK(
      candidates.scalar_type() == ScalarType::Long && candidates.dim() == 2 && candidates.size(0) == n_lists, op,
      ": candidates must be int64 (", n_lists, ", k), got shape ", shape_of(candidates));
  const Tensor scores = empty(inputs.regions, {n_lists, candidates.size(1)}, roles.context.wide());
  if (scores.numel() == 0) return scores;
  Launch launch(op, inputs.regions);
  const bool fit = tiles_fit(launch, roles);
  STD_TORCH_CHECK(fit || (options.attends == 0 && streams(launch, roles)), op,
                  ": lists are taken of vectors of 32 or 16 bits, on compute capability 8.0 and newer",
                  options.attends != 0 ? ", and of groups of at most 128 vectors" : "");
  (fit ? score_lists_by_tiles : score_lists_by_largest)(launch, roles, options, torch::stable::contiguous(candidates),
                                                        of_captions == roles.regions_query, scores);
  return scores;
}

std::tuple<Tensor, Tensor> similarity_backward(const char* op, const Tensor& grad, const SimilarityInputs& inputs,
                                               const SimilarityOptions& options, const std::optional<Tensor>& kept,
                                               bool need_regions, bool need_words) {
  Roles roles(inputs);
  auto& [regions_query, context, query] = roles;
  const ScalarType wide = context.wide();
  STD_TORCH_CHECK(grad.dim() == 2 && grad.size(0) == inputs.regions.size(0) && grad.size(1) == inputs.words.size(0),
                  "grad must have one number for every image and caption, got shape ", shape_of(grad));
  if (kept.has_value()) {
    const std::vector<int64_t> shape{context.n, query_vectors(roles)};
    STD_TORCH_CHECK(has_shape(*kept, shape) && kept->scalar_type() == ScalarType::Int, "rows must be int32 of shape ",
                    as_text(shape), ", got ", kept->scalar_type(), " of ", shape_of(*kept));
  }
  const bool nothing = grad.numel() == 0;  // then no kernel writes the gradient of the other side either
  auto gradient = [nothing](const Tensor& of, bool needed) {
    const std::vector<int64_t> shape =
        needed ? std::vector<int64_t>{of.size(0), of.size(1), of.size(2)} : std::vector<int64_t>{0};
    return (nothing ? zeros : empty)(of, shape, of.scalar_type());
  };
  const Tensor grad_regions = gradient(inputs.regions, need_regions), grad_words = gradient(inputs.words, need_words);
  if (nothing) return {grad_regions, grad_words};
  Launch launch(op, inputs.regions);
  const Tensor cotangent = torch::stable::contiguous(torch::stable::to(grad, wide));
  const bool need_context = regions_query ? need_words : need_regions,
             need_query = regions_query ? need_regions : need_words;
  const Tensor &grad_context = regions_query ? grad_words : grad_regions,
               &grad_query = regions_query ? grad_regions : grad_words;

  const bool attends = options.attends != 0;
  if (!attends && streams(launch, roles)) {
    std::optional<Tensor> rows;
    if (kept.has_value()) rows = torch::stable::contiguous(*kept);
    gradients_by_largest(launch, roles, options, cotangent, rows, need_context ? &grad_context : nullptr,
                         need_query ? &grad_query : nullptr);
    return {grad_regions, grad_words};
  }
  STD_TORCH_CHECK(!kept.has_value(), op, ": no rows are kept of float64, and before compute capability 8.0");
  Chunks chunks(launch, roles, options, true);
  const ScalarType grad_type = context.prepared.scalar_type();
  std::optional<Tensor> query_sum, kappa_sum, scale;
  if (grad_type == ScalarType::Half) {
    scale = empty(grad, {1}, ScalarType::Float);
    scale_for_float16(launch.in<float>(cotangent), cotangent.numel(), launch.out<float>(*scale), launch.stream());
  }
  Tensor queries = chunks.queries();
  ChunkArgs last{};
  for (int64_t first = 0; first < context.n; first += chunks.n_contexts()) {
    const int64_t n = std::min(chunks.n_contexts(), context.n - first);
    ChunkArgs& args = chunks.make(first, n, 0, query.n);
    const std::vector<int64_t> shape{n * context.pitch, chunks.columns()};
    const Tensor grad_sims = grad_type == wide ? chunks.sims() : empty(grad, shape, grad_type);
    args.grad_sims = grad_type == wide ? const_cast<void*>(args.sims) : launch.out<void>(grad_sims);
    args.scale = scale.has_value() ? launch.inout<float>(*scale) : nullptr;
    args.grad_scores = launch.in<char>(cotangent) + first * args.context_stride * size_in_bytes(wide);
    std::optional<Tensor> square, kappa;
    if (attends) {
      square = empty(grad, {chunks.sums(), n, args.gram_numbers}, wide);
      kappa = empty(grad, {n, chunks.columns()}, wide);
      args.grad_gram = launch.out<void>(*square);
      args.kappa = launch.out<void>(*kappa);
    }
    chunks.gradients(args, grad_type, square);
    last = args;
    if (need_context) {
      const Tensor product = empty(grad, {n * context.pitch, context.padded_dim}, wide);
      product_into(product, grad_sims, queries);
      finish(launch, context, grad_context, first, n, product, square, std::nullopt, args);
    }
    if (need_query) {
      const Tensor product = empty(grad, {chunks.columns(), query.padded_dim}, wide);
      Tensor transposed = grad_sims;
      product_into(product, torch::stable::transpose(transposed, 0, 1), chunks.rows_of(first, n));
      query_sum = query_sum.has_value() ? sum_of(*query_sum, product) : product;
      if (attends) {
        const Tensor sum = torch::stable::sum(*kappa, std::vector<int64_t>{0});
        kappa_sum = kappa_sum.has_value() ? sum_of(*kappa_sum, sum) : sum;
      }
    }
  }
  if (need_query) finish(launch, query, grad_query, 0, query.n, *query_sum, std::nullopt, kappa_sum, last);
  return {grad_regions, grad_words};
}

}  // namespace itm::cuda
