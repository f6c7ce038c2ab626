// torch.ops.itm_fast.semantic_margin_loss and semantic_negatives: schema and CPU kernels. Contract, and what the
// variants mean: itm_fast/ops/semantic_margin.py.
#include <array>
#include <cmath>
#include <string>
#include <string_view>
#include <utility>

#include "hinge.h"

namespace itm {
namespace {

enum class Variant { kFixed, kLiteral, kReleased };
enum class Sampling { kHardest, kEasiest, kRandom, kSoft, kHard, kAll };

template <class Enum, size_t kSize>
Enum named(const char* what, std::string_view given, const std::array<std::pair<std::string_view, Enum>, kSize>& all) {
  for (const auto& [name, value] : all)
    if (name == given) return value;
  ITM_CHECK_VALUE(false, what, " ", std::string(given), " is not known to this operator");
}

Variant variant_named(std::string_view name) {
  return named<Variant, 3>(
      "variant", name,
      {{{"fixed", Variant::kFixed}, {"literal", Variant::kLiteral}, {"released", Variant::kReleased}}});
}

Sampling sampling_named(std::string_view name) {
  return named<Sampling, 6>("sampling", name,
                            {{{"hardest", Sampling::kHardest},
                              {"easiest", Sampling::kEasiest},
                              {"random", Sampling::kRandom},
                              {"soft", Sampling::kSoft},
                              {"hard", Sampling::kHard},
                              {"all", Sampling::kAll}}});
}

// The released code compares positives with everything, of the same image or not.
Negatives negatives_of(Variant variant, int64_t n, const std::optional<Tensor>& image_ids) {
  return Negatives(n, variant == Variant::kReleased ? std::nullopt : image_ids);
}

// Two rows of n numbers in [0, 1), as indices among the negatives of each pair.
void random_negatives(const std::optional<Tensor>& uniform, const Negatives& negatives, int64_t* chosen) {
  const int64_t n = negatives.size();
  ITM_CHECK_VALUE(uniform.has_value() && uniform->dim() == 2 && uniform->size(0) == 2 && uniform->size(1) == n,
                  "sampling random needs uniform with shape (2, ", n, ")");
  ITM_CHECK_TYPE(uniform->scalar_type() == ScalarType::Double, "uniform must be float64, got ", uniform->scalar_type());
  const Tensor contiguous = as_contiguous(*uniform);
  const double* u = contiguous.const_data_ptr<double>();
  for (int64_t k = 0; k < 2 * n; k++) {
    const int64_t i = k % n, count = negatives.count(i);
    const double index = u[k] * double(count);  // compared before it becomes an integer: it may be anything
    chosen[k] = count == 0                   ? -1
                : !(index > 0)               ? negatives.nth(i, 0)
                : index >= double(count - 1) ? negatives.nth(i, count - 1)
                                             : negatives.nth(i, int64_t(index));
  }
}

// The second of n values x[j] - subtracted[j] in order of size, the first of equal ones before the others, NaN as the
// largest: what topk calls rank 2. -1 where there are less than two.
template <bool kLargest, class T, class Subtracted>
int64_t second(int64_t n, const T* x, const Subtracted& subtracted) {
  auto before = [](T a, T b) {
    if constexpr (kLargest) return std::isnan(a) ? !std::isnan(b) : a > b;
    return std::isnan(b) ? !std::isnan(a) : a < b;
  };
  if (n < 2) return -1;
  T best = x[0] - subtracted(0), next = x[1] - subtracted(1);
  int64_t best_at = 0, next_at = 1;
  if (before(next, best)) std::swap(best, next), std::swap(best_at, next_at);
  for (int64_t j = 2; j < n; j++) {
    const T value = x[j] - subtracted(j);
    if (!beats<kLargest>(value, next) || !before(value, next)) continue;  // the cheap test is almost always enough
    next = value, next_at = j;
    if (before(next, best)) std::swap(best, next), std::swap(best_at, next_at);
  }
  return next_at;
}

// The released code's choice: along rows both times, the positive not left out but expected at rank 1.
template <bool kLargest, class T>
void second_along_rows(const T* sims, int64_t n, int64_t* of_row, int64_t* of_column) {
  std::vector<T> positive(n);
  for (int64_t i = 0; i < n; i++) positive[i] = sims[i * n + i];
  for_pieces(n, kRowsPerItem, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      of_row[i] = second<kLargest>(n, sims + i * n, [own = positive[i]](int64_t) { return own; });
      of_column[i] = second<kLargest>(n, sims + i * n, [other = positive.data()](int64_t j) { return other[j]; });
    }
  });
}

template <class T>
void choose(const T* sims, const Negatives& negatives, const std::optional<Tensor>& uniform, Sampling sampling,
            Variant variant, int64_t* chosen) {
  const int64_t n = negatives.size();
  const bool released = variant == Variant::kReleased;
  if (sampling == Sampling::kRandom) return random_negatives(uniform, negatives, chosen);
  if (released && sampling == Sampling::kSoft) return second_along_rows<true>(sims, n, chosen, chosen + n);
  if (released && sampling == Sampling::kHard) return second_along_rows<false>(sims, n, chosen, chosen + n);
  if (!released && sampling == Sampling::kHardest) return extreme_negatives<true>(sims, negatives, chosen, chosen + n);
  if (!released && sampling == Sampling::kEasiest) return extreme_negatives<false>(sims, negatives, chosen, chosen + n);
  ITM_CHECK_VALUE(false, "sampling does not fit the variant");
}

Tensor chosen_negatives(const Tensor& scores, const Negatives& negatives, const std::optional<Tensor>& uniform,
                        Sampling sampling, Variant variant) {
  Tensor chosen = empty({2, negatives.size()}, ScalarType::Long);
  int64_t* out = chosen.mutable_data_ptr<int64_t>();
  if (scores.scalar_type() == ScalarType::Double)
    choose(scores.const_data_ptr<double>(), negatives, uniform, sampling, variant, out);
  else
    choose(scores.const_data_ptr<float>(), negatives, uniform, sampling, variant, out);
  return chosen;
}

// A copy of negatives that were given, in range.
Tensor given_negatives(const Tensor& given, int64_t n) {
  ITM_CHECK_VALUE(given.dim() == 2 && given.size(0) == 2 && given.size(1) == n, "negatives must have shape (2, ", n,
                  "), got ", shape_of(given));
  ITM_CHECK_TYPE(given.scalar_type() == ScalarType::Long, "negatives must be int64, got ", given.scalar_type());
  Tensor chosen = empty({2, n}, ScalarType::Long);
  torch::stable::copy_(chosen, given);
  const int64_t* index = chosen.const_data_ptr<int64_t>();
  for (int64_t k = 0; k < 2 * n; k++)
    ITM_CHECK_VALUE(index[k] >= -1 && index[k] < n, "negatives[", k / n, "][", k % n, "] is ", index[k],
                    "; expected a pair, 0 to ", n - 1, ", or -1 for none");
  return chosen;
}

// Relevance of pair i, of (its image, the caption of m) and of the pair that l stands for: (3, n), no number where
// there is no negative.
Tensor relevance_of_chosen(const Tensor& relevance, const int64_t* m, const int64_t* l, bool column) {
  const int64_t n = relevance.size(0), down = relevance.stride(0), across = relevance.stride(1);
  Tensor of_pairs = zeros({3, n}, ScalarType::Double);
  double* out = of_pairs.mutable_data_ptr<double>();
  auto gather = [&](const auto* phi) {
    for (int64_t i = 0; i < n; i++) {
      out[i] = double(phi[i * (down + across)]);
      if (m[i] >= 0) out[n + i] = double(phi[i * down + m[i] * across]);
      if (l[i] >= 0) out[2 * n + i] = double(column ? phi[l[i] * down + i * across] : phi[i * down + l[i] * across]);
    }
  };
  if (relevance.scalar_type() == ScalarType::Double)
    gather(relevance.const_data_ptr<double>());
  else
    gather(relevance.const_data_ptr<float>());
  return of_pairs;
}

struct Margin {
  double temperature, max, min;

  template <class Number>
  Number operator()(double difference) const {
    Number margin = Number(difference) / Number(temperature);
    margin = margin < Number(min) ? Number(min) : margin;  // NaN stays
    return margin > Number(max) ? Number(max) : margin;
  }
};

// Loss and gradient over one negative per query and direction. phi: see relevance_of_chosen.
template <class T>
double hinge_over_chosen(const T* sims, int64_t n, const int64_t* m, const int64_t* l, const double* phi,
                         const Margin& margin, Variant variant, T* grad) {
  double loss = 0;
  auto add = [&](T cost, int64_t row, int64_t column, int64_t own) {
    loss += cost;
    grad[row * n + column] += 1;
    grad[own * n + own] -= 1;
  };
  const double *phi_m = phi + n, *phi_l = phi + 2 * n;
  auto own = [&](int64_t i) { return sims[i * n + i]; };
  if (variant == Variant::kReleased) {
    // float32 margins, swapped, taken at the negative's place, and a hinge whose gradient passes at 0: all as released.
    auto term = [&](int64_t row, int64_t column, int64_t at, int64_t other, double phi_other) {
      if (other < 0) return;
      const T cost = (sims[row * n + column] - own(at)) + T(margin.template operator()<float>(phi[column] - phi_other));
      if (!(cost < 0)) add(cost, row, column, at);
    };
    for (int64_t i = 0; i < n; i++)
      if (const int64_t j = m[i]; j >= 0) term(i, j, i, l[j], phi_l[j]);
    for (int64_t i = 0; i < n; i++)
      if (const int64_t j = l[i]; j >= 0) term(i, j, j, m[j], phi_m[j]);
    return loss;
  }
  const bool swapped = variant == Variant::kLiteral;
  auto term = [&](int64_t row, int64_t column, int64_t i, double phi_other) {
    const T cost = T(margin.template operator()<double>(phi[i] - phi_other)) + sims[row * n + column] - own(i);
    if (!(cost <= 0)) add(cost, row, column, i);
  };
  for (int64_t i = 0; i < n; i++) {
    if (m[i] >= 0 && (!swapped || l[i] >= 0)) term(i, m[i], i, swapped ? phi_l[i] : phi_m[i]);
    if (l[i] >= 0 && (!swapped || m[i] >= 0)) term(l[i], i, i, swapped ? phi_m[i] : phi_l[i]);
  }
  return loss;
}

// The same over all negatives.
template <class T>
double hinge_over_all(const T* sims, const Negatives& negatives, const Tensor& relevance, const Margin& margin,
                      bool column, T* grad) {
  const int64_t n = negatives.size();
  const Tensor phi = as_contiguous(as_type(relevance, ScalarType::Double));
  const Tensor phi_of_columns =
      column ? phi : as_contiguous(transposed(phi));  // [i, j]: of image i as negative of caption j
  const double *rows = phi.const_data_ptr<double>(), *columns = phi_of_columns.const_data_ptr<double>();
  std::vector<double> positive(n);
  for (int64_t i = 0; i < n; i++) positive[i] = rows[i * n + i];
  return hinge_over_all<T>(
      sims, negatives,
      [&](int64_t i) {
        return [margin, row = rows + i * n, of_column = columns + i * n, own = positive[i],
                other = positive.data()](int64_t j) {
          return std::pair{T(margin.template operator()<double>(own - row[j])),
                           T(margin.template operator()<double>(other[j] - of_column[j]))};
        };
      },
      grad);
}

Tensor semantic_negatives_cpu(const Tensor& sims, const std::optional<Tensor>& image_ids,
                              const std::optional<Tensor>& uniform, std::string_view sampling,
                              std::string_view variant) {
  const Tensor scores = checked_sims(sims);
  const Variant how = variant_named(variant);
  return chosen_negatives(scores, negatives_of(how, scores.size(0), image_ids), uniform, sampling_named(sampling), how);
}

std::tuple<Tensor, Tensor, Tensor> semantic_margin_loss_cpu(
    const Tensor& sims, const Tensor& relevance, bool relevance_of_pairs, const std::optional<Tensor>& image_ids,
    const std::optional<Tensor>& negatives, const std::optional<Tensor>& uniform, double temperature,
    std::string_view sampling, std::string_view variant, std::optional<double> margin_max,
    std::optional<double> margin_min, bool column, bool mean) {
  const Tensor scores = checked_sims(sims);
  const int64_t n = scores.size(0), n_rows = relevance_of_pairs ? 3 : n;
  ITM_CHECK_VALUE(relevance.dim() == 2 && relevance.size(0) == n_rows && relevance.size(1) == n,
                  "relevance must have shape (", n_rows, ", ", n, "), got ", shape_of(relevance));
  ITM_CHECK_TYPE(relevance.scalar_type() == ScalarType::Float || relevance.scalar_type() == ScalarType::Double,
                 "relevance must be float32 or float64, got ", relevance.scalar_type());
  const Variant how = variant_named(variant);
  const Sampling which = sampling_named(sampling);
  constexpr double infinity = std::numeric_limits<double>::infinity();
  const Margin margin{temperature, margin_max.value_or(infinity), margin_min.value_or(-infinity)};
  const Negatives allowed = negatives_of(how, n, image_ids);
  Tensor grad = zeros(scores.sizes(), scores.scalar_type());

  if (which == Sampling::kAll && !negatives.has_value()) {
    ITM_CHECK_VALUE(how == Variant::kFixed && !relevance_of_pairs,
                    "sampling all needs variant fixed and the relevance of all pairs");
    const double loss = scores.scalar_type() == ScalarType::Double
                            ? hinge_over_all(scores.const_data_ptr<double>(), allowed, relevance, margin, column,
                                             grad.mutable_data_ptr<double>())
                            : hinge_over_all(scores.const_data_ptr<float>(), allowed, relevance, margin, column,
                                             grad.mutable_data_ptr<float>());
    auto [total, grad_sims] = reduced(loss, grad, mean, sims);
    return {total, empty({2, 0}, ScalarType::Long), grad_sims};
  }

  const Tensor chosen =
      negatives.has_value() ? given_negatives(*negatives, n) : chosen_negatives(scores, allowed, uniform, which, how);
  const int64_t *m = chosen.const_data_ptr<int64_t>(), *l = m + n;
  const Tensor of_pairs = relevance_of_pairs ? as_contiguous(as_type(relevance, ScalarType::Double))
                                             : relevance_of_chosen(relevance, m, l, column);
  const double* phi = of_pairs.const_data_ptr<double>();
  const double loss = scores.scalar_type() == ScalarType::Double
                          ? hinge_over_chosen(scores.const_data_ptr<double>(), n, m, l, phi, margin, how,
                                              grad.mutable_data_ptr<double>())
                          : hinge_over_chosen(scores.const_data_ptr<float>(), n, m, l, phi, margin, how,
                                              grad.mutable_data_ptr<float>());
  auto [total, grad_sims] = reduced(loss, grad, mean, sims);
  return {total, chosen, grad_sims};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(itm_fast, m) {
  m.def("semantic_negatives(Tensor sims, Tensor? image_ids, Tensor? uniform, str sampling, str variant) -> Tensor");
  m.def(
      "semantic_margin_loss(Tensor sims, Tensor relevance, bool relevance_of_pairs, Tensor? image_ids, "
      "Tensor? negatives, Tensor? uniform, float temperature, str sampling, str variant, float? margin_max, "
      "float? margin_min, bool column, bool mean) -> (Tensor loss, Tensor chosen, Tensor grad_sims)");
}
STABLE_TORCH_LIBRARY_IMPL(itm_fast, CPU, m) {
  m.impl("semantic_negatives", TORCH_BOX(&semantic_negatives_cpu));
  m.impl("semantic_margin_loss", TORCH_BOX(&semantic_margin_loss_cpu));
}

}  // namespace itm
