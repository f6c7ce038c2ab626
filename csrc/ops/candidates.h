// What every similarity operator does with given pairs, as operands.h does with all.
#pragma once

#include <limits>

#include "../cpu/candidate_lists.h"
#include "operands.h"

namespace itm {

// int64 [n_lists, k], contiguous.
inline Tensor checked_candidates(const Tensor& given, int64_t n_lists, bool of_captions) {
  ITM_CHECK_TYPE(given.scalar_type() == ScalarType::Long, "candidates must be int64, got ", given.scalar_type());
  ITM_CHECK_VALUE(given.dim() == 2 && given.size(0) == n_lists, "candidates must have shape (", n_lists,
                  ", k), a list for each ", of_captions ? "caption" : "image", ", got ", shape_of(given));
  return as_contiguous(given);
}

// Candidates of a call, and who owns the pairs.
struct GivenPairs {
  const Roles& roles;
  const Tensor indices;
  const Batch &listed, &others;
  const Candidates candidates;
  const bool owners_list;

  // contexts_own: for a similarity that writes what belongs to a context, which one worker only may then do.
  GivenPairs(const Roles& roles, const Tensor& given, bool of_captions, bool contexts_own = false)
      : roles(roles),
        indices(checked_candidates(given, of_captions ? roles.n_captions : roles.n_images, of_captions)),
        listed(of_captions == roles.regions_query ? roles.context : roles.query),
        others(of_captions == roles.regions_query ? roles.query : roles.context),
        candidates{indices.const_data_ptr<int64_t>(), indices.size(0), indices.size(1), others.n_groups},
        owners_list(contexts_own ? &listed == &roles.context : lists_own(listed, others)) {
    check_candidates(candidates);
  }

  const Batch& owners() const { return owners_list ? listed : others; }
  const Batch& members() const { return owners_list ? others : listed; }
  bool owner_is_context() const { return &owners() == &roles.context; }
};

// make(T()) returns the Similarity<T>.
template <class Make>
Tensor candidates_forward(const GivenPairs& given, const Make& make) {
  const auto type = given.roles.context.vectors.scalar_type();
  Tensor scores = empty(given.indices.sizes(), score_type(type));
  auto run = [&](auto in, auto number) {
    using T = decltype(number);
    T* out = scores.mutable_data_ptr<T>();
    std::fill_n(out, scores.numel(), -std::numeric_limits<T>::infinity());
    score_pairs<decltype(in), T>(given.owners(), given.members(), given.owner_is_context(), given.candidates,
                                 given.owners_list, make(T()), out);
  };
  if (type == ScalarType::Double) run(double(), double());
  if (type == ScalarType::Float) run(float(), float());
  if (type == ScalarType::Half) run(Half(), float());
  if (type == ScalarType::BFloat16) run(BFloat16(), float());
  return scores;
}

// As similarity_backward.
template <class Make>
std::tuple<Tensor, Tensor> candidates_backward(const Tensor& grad, const Tensor& regions, const Tensor& words,
                                               const GivenPairs& given, const Make& make, bool need_regions,
                                               bool need_words, Tensor* grad_parameter = nullptr) {
  ITM_CHECK_VALUE(has_shape(grad, given.indices.sizes()), "grad must have shape ", shape_of(given.indices), ", got ",
                  shape_of(grad));
  const auto type = regions.scalar_type();
  auto gradient = [](const Tensor& of, bool needed) {
    return needed ? zeros(of.sizes(), of.scalar_type()) : empty({0}, of.scalar_type());
  };
  Tensor grad_regions = gradient(regions, need_regions), grad_words = gradient(words, need_words);
  if (grad_parameter != nullptr) *grad_parameter = zeros(grad.sizes(), score_type(type));
  const Tensor cotangent = as_contiguous(as_type(grad, score_type(type)));
  const bool regions_own = given.owner_is_context() != given.roles.regions_query;
  auto run = [&](auto in, auto number) {
    using In = decltype(in);
    using T = decltype(number);
    In* of_regions = need_regions ? grad_regions.mutable_data_ptr<In>() : nullptr;
    In* of_words = need_words ? grad_words.mutable_data_ptr<In>() : nullptr;
    score_pairs_backward<In, T>(given.owners(), given.members(), given.owner_is_context(), given.candidates,
                                given.owners_list, make(T()), cotangent.const_data_ptr<T>(),
                                regions_own ? of_regions : of_words, regions_own ? of_words : of_regions,
                                grad_parameter != nullptr ? grad_parameter->mutable_data_ptr<T>() : nullptr);
  };
  if (type == ScalarType::Double) run(double(), double());
  if (type == ScalarType::Float) run(float(), float());
  if (type == ScalarType::Half) run(Half(), float());
  if (type == ScalarType::BFloat16) run(BFloat16(), float());
  return {grad_regions, grad_words};
}

}  // namespace itm
