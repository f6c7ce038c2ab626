// torch.ops.itm_fast.semantic_margin_loss and semantic_negatives on CUDA. Contract: itm_fast/ops/semantic_margin.py.
#include "../semantic_margin.h"

#include <limits>
#include <string_view>

#include "host.h"

namespace itm::cuda {
namespace {

MarginVariant variant_named(std::string_view name) {
  if (name == "fixed") return MarginVariant::kFixed;
  if (name == "literal") return MarginVariant::kLiteral;
  if (name == "released") return MarginVariant::kReleased;
  STD_TORCH_CHECK(false, "variant ", std::string(name), " is not known to this operator");
}

MarginSampling sampling_named(std::string_view name, MarginVariant variant) {
  const bool released = variant == MarginVariant::kReleased;
  if (name == "random") return MarginSampling::kRandom;
  if (!released && name == "hardest") return MarginSampling::kHardest;
  if (!released && name == "easiest") return MarginSampling::kEasiest;
  if (released && name == "soft") return MarginSampling::kSoft;
  if (released && name == "hard") return MarginSampling::kHard;
  for (const std::string_view known : {"hardest", "easiest", "soft", "hard"})
    STD_TORCH_CHECK(name != known, "sampling does not fit the variant");
  STD_TORCH_CHECK(false, "sampling ", std::string(name), " is not known to this operator");
}

using Optional = std::optional<Tensor>;

std::optional<Tensor> contiguous(const Optional& tensor) {
  if (!tensor.has_value()) return std::nullopt;
  return torch::stable::contiguous(*tensor);
}

void check_pairs(const Optional& tensor, const char* name, ScalarType type, int64_t rows, int64_t n) {
  if (!tensor.has_value()) return;
  const bool fits = rows == 1 ? tensor->dim() == 1 && tensor->size(0) == n
                              : tensor->dim() == 2 && tensor->size(0) == rows && tensor->size(1) == n;
  STD_TORCH_CHECK(fits, name, " must have shape (", rows == 1 ? "" : "2, ", n, "), got ", shape_of(*tensor));
  STD_TORCH_CHECK(tensor->scalar_type() == type, name, " must be ", type == ScalarType::Long ? "int64" : "float64");
}

// Operands that both operators have, checked and contiguous, and the arguments that follow from them.
struct Operands {
  Tensor sims;
  Optional image_ids, given, uniform;
  SemanticMarginArgs args{};

  Operands(const Tensor& scores, const Optional& ids, const Optional& negatives, const Optional& numbers,
           std::string_view sampling, std::string_view variant)
      : sims(scores) {
    STD_TORCH_CHECK(sims.dim() == 2 && sims.size(0) == sims.size(1),
                    "sims must be a square matrix (n, n) with the pairs on its diagonal, got ", shape_of(sims));
    const int64_t n = sims.size(0);
    STD_TORCH_CHECK(n < int64_t(1) << 30, "sims must have less than 2^30 rows, got ", n);
    args.n = int32_t(n);
    args.variant = variant_named(variant);
    check_pairs(ids, "image_ids", ScalarType::Long, 1, n);
    check_pairs(negatives, "negatives", ScalarType::Long, 2, n);
    // The released code compares positives with everything, of the same image or not.
    if (args.variant != MarginVariant::kReleased) image_ids = contiguous(ids);
    given = contiguous(negatives);
    if (given.has_value()) {
      args.sampling = MarginSampling::kGiven;
    } else if (sampling != "all") {
      args.sampling = sampling_named(sampling, args.variant);
      if (args.sampling == MarginSampling::kRandom) {
        STD_TORCH_CHECK(numbers.has_value(), "sampling random needs uniform with shape (2, ", n, ")");
        check_pairs(numbers, "uniform", ScalarType::Double, 2, n);
        uniform = contiguous(numbers);
      }
    }
    sims = torch::stable::contiguous(sims);
  }

  void note(Launch& launch) {
    args.sims = launch.in<void>(sims);
    args.image_ids = launch.in<int64_t>(image_ids);
    args.given = launch.in<int64_t>(given);
    args.uniform = launch.in<double>(uniform);
  }
};

Tensor semantic_negatives(const Tensor& sims, const Optional& image_ids, const Optional& uniform, std::string sampling,
                          std::string variant) {
  STD_TORCH_CHECK(sampling != "all", "sampling all chooses no negatives");
  Operands operands(sims, image_ids, std::nullopt, uniform, sampling, variant);
  const Tensor chosen = empty(sims, {2, operands.args.n}, ScalarType::Long);
  if (operands.args.n == 0) return chosen;
  Launch launch("semantic_negatives", sims);
  operands.note(launch);
  operands.args.chosen = launch.out<int64_t>(chosen);
  semantic_margin_chosen(operands.args, number_of(sims), launch.stream());
  launch.check();
  return chosen;
}

std::tuple<Tensor, Tensor, Tensor> semantic_margin_loss(const Tensor& sims, const Tensor& relevance,
                                                        bool relevance_of_pairs, const Optional& image_ids,
                                                        const Optional& negatives, const Optional& uniform,
                                                        double temperature, std::string sampling, std::string variant,
                                                        std::optional<double> margin_max,
                                                        std::optional<double> margin_min, bool column, bool mean) {
  Operands operands(sims, image_ids, negatives, uniform, sampling, variant);
  SemanticMarginArgs& args = operands.args;
  const int64_t n = args.n, n_rows = relevance_of_pairs ? 3 : n;
  const bool all = sampling == "all" && !negatives.has_value();
  STD_TORCH_CHECK(relevance.dim() == 2 && relevance.size(0) == n_rows && relevance.size(1) == n,
                  "relevance must have shape (", n_rows, ", ", n, "), got ", shape_of(relevance));
  const ScalarType type = relevance.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || type == ScalarType::Double, "relevance must be float32 or float64");
  STD_TORCH_CHECK(!all || (args.variant == MarginVariant::kFixed && !relevance_of_pairs),
                  "sampling all needs variant fixed and the relevance of all pairs");
  const ScalarType wide = sims.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  const Tensor loss = zeros(sims, {}, wide), grad = empty(sims, {n, n}, sims.scalar_type());
  const Tensor chosen = empty(sims, {2, all ? 0 : n}, ScalarType::Long);
  if (n == 0) return {loss, chosen, grad};
  Launch launch("semantic_margin_loss", sims);
  operands.note(launch);
  const Tensor phi = torch::stable::contiguous(relevance);
  const Tensor numbers = empty(sims, {5, n}, ScalarType::Double), found = empty(sims, {4, n}, ScalarType::Int);
  const Tensor counts = zeros(sims, {n + 1}, ScalarType::Int);
  constexpr double infinity = std::numeric_limits<double>::infinity();
  args.relevance = launch.in<void>(phi);
  args.down = n;
  args.across = 1;
  args.relevance_is_double = type == ScalarType::Double;
  args.relevance_of_pairs = relevance_of_pairs;
  args.chosen = launch.out<int64_t>(chosen);
  args.grad = launch.out<void>(grad);
  args.loss = launch.out<void>(loss);
  args.numbers = launch.out<double>(numbers);
  args.found = launch.out<int32_t>(found);
  args.counts = launch.inout<int32_t>(counts);
  args.finished = reinterpret_cast<uint32_t*>(args.counts + n);
  args.temperature = temperature;
  args.margin_max = margin_max.value_or(infinity);
  args.margin_min = margin_min.value_or(-infinity);
  args.divisor = mean ? double(n) : 1.0;
  args.column = column;
  (all ? semantic_margin_all : semantic_margin_chosen)(args, number_of(sims), launch.stream());
  launch.check();
  return {loss, chosen, grad};
}

}  // namespace

ITM_CUDA_OPERATORS(m) {
  m.impl("semantic_negatives", TORCH_BOX(&semantic_negatives));
  m.impl("semantic_margin_loss", TORCH_BOX(&semantic_margin_loss));
}

}  // namespace itm::cuda
