// torch.ops.itm_fast.graph_reasoning: schema and CPU registration. Contract: itm_fast/ops/graph_reasoning.py.
#include "../cpu/graph_reasoning_tiles.h"

namespace itm {
namespace {

void check(const char* name, const Tensor& given, Shape shape, const Tensor& like) {
  ITM_CHECK_VALUE(has_shape(given, shape), name, " must have shape ", as_text(shape), ", got ", shape_of(given));
  ITM_CHECK_TYPE(given.scalar_type() == like.scalar_type() &&
                     (given.scalar_type() == ScalarType::Float || given.scalar_type() == ScalarType::Double),
                 name, " must be float32 or float64 as all others, got ", given.scalar_type());
}

// Contiguous copies of what the operator was given, checked.
struct Given {
  Tensor whole, local, forms, form_biases, weights, biases;
  Batch words;
  int64_t steps, width;

  Given(const Tensor& w, const Tensor& l, const Tensor& word_counts, const Tensor& f, const Tensor& fb, const Tensor& m,
        const Tensor& b, std::optional<int64_t> max_words)
      : whole(as_contiguous(w)),
        local(as_contiguous(l)),
        forms(as_contiguous(f)),
        form_biases(as_contiguous(fb)),
        weights(as_contiguous(m)),
        biases(as_contiguous(b)),
        words(packed_words(w, l, word_counts)),
        steps(f.size(0)),
        width(w.size(2)) {
    ITM_CHECK_VALUE(steps > 0 && width > 0, "forms must have at least one step and one number, got ", shape_of(f));
    for (int64_t c = 0; max_words.has_value() && c < words.n_groups; c++)
      ITM_CHECK_VALUE(words.count(c) <= *max_words, "word_counts[", c, "] is ", words.count(c),
                      ", above max_words = ", *max_words);
    check("whole", w, {w.size(0), words.n_groups, width}, w);
    check("local", l, {w.size(0), l.size(1), width}, w);
    check("forms", f, {steps, width, width}, w);
    check("form_biases", fb, {steps, width}, w);
    check("weights", m, {steps, width, width}, w);
    check("biases", b, {steps, width}, w);
  }

  bool empty() const { return whole.numel() == 0; }

  template <class T>
  GraphOperands<T> operands(bool backward) const {
    return {words,
            whole.size(0),
            steps,
            width,
            whole.const_data_ptr<T>(),
            local.const_data_ptr<T>(),
            {forms.const_data_ptr<T>(), form_biases.const_data_ptr<T>(), weights.const_data_ptr<T>(),
             biases.const_data_ptr<T>()},
            backward};
  }

 private:
  static Batch packed_words(const Tensor& whole, const Tensor& local, const Tensor& word_counts) {
    ITM_CHECK_VALUE(whole.dim() == 3 && local.dim() == 3, "whole and local must have three dimensions, got ",
                    shape_of(whole), " and ", shape_of(local));
    return Batch::packed(itm::empty({local.size(1), 1}, ScalarType::Float), word_counts, "word");
  }
};

Tensor graph_reasoning_cpu(const Tensor& whole, const Tensor& local, const Tensor& word_counts, const Tensor& forms,
                           const Tensor& form_biases, const Tensor& weights, const Tensor& biases,
                           std::optional<int64_t> max_words) {
  const Given given(whole, local, word_counts, forms, form_biases, weights, biases, max_words);
  Tensor out = empty(whole.sizes(), whole.scalar_type());
  if (given.empty()) return out;
  if (whole.scalar_type() == ScalarType::Double)
    graph_reasoning_tiles<double>(given.operands<double>(false), out.mutable_data_ptr<double>());
  else
    graph_reasoning_tiles<float>(given.operands<float>(false), out.mutable_data_ptr<float>());
  return out;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> graph_reasoning_backward_cpu(
    const Tensor& grad, const Tensor& whole, const Tensor& local, const Tensor& word_counts, const Tensor& forms,
    const Tensor& form_biases, const Tensor& weights, const Tensor& biases, std::optional<int64_t> max_words) {
  const Given given(whole, local, word_counts, forms, form_biases, weights, biases, max_words);
  check("grad", grad, whole.sizes(), whole);
  auto gradient = [&](const Tensor& of) { return zeros(of.sizes(), of.scalar_type()); };
  Tensor of_whole = gradient(whole), of_local = gradient(local), of_forms = gradient(forms),
         of_form_biases = gradient(form_biases), of_weights = gradient(weights), of_biases = gradient(biases);
  auto run = [&](auto number) {
    using T = decltype(number);
    const Tensor cotangent = as_contiguous(grad);
    graph_reasoning_backward_tiles<T>(given.operands<T>(true), cotangent.const_data_ptr<T>(),
                                      of_whole.mutable_data_ptr<T>(), of_local.mutable_data_ptr<T>(),
                                      {of_forms.mutable_data_ptr<T>(), of_form_biases.mutable_data_ptr<T>(),
                                       of_weights.mutable_data_ptr<T>(), of_biases.mutable_data_ptr<T>()});
  };
  if (!given.empty() && whole.scalar_type() == ScalarType::Double) run(double());
  if (!given.empty() && whole.scalar_type() == ScalarType::Float) run(float());
  return {of_whole, of_local, of_forms, of_form_biases, of_weights, of_biases};
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(itm_fast, m) {
  m.def(
      "graph_reasoning(Tensor whole, Tensor local, Tensor word_counts, Tensor forms, Tensor form_biases, "
      "Tensor weights, Tensor biases, int? max_words) -> Tensor");
  m.def(
      "graph_reasoning_backward(Tensor grad, Tensor whole, Tensor local, Tensor word_counts, Tensor forms, "
      "Tensor form_biases, Tensor weights, Tensor biases, int? max_words) -> (Tensor, Tensor, Tensor, Tensor, Tensor, "
      "Tensor)");
}
STABLE_TORCH_LIBRARY_IMPL(itm_fast, CPU, m) {
  m.impl("graph_reasoning", TORCH_BOX(&graph_reasoning_cpu));
  m.impl("graph_reasoning_backward", TORCH_BOX(&graph_reasoning_backward_cpu));
}

}  // namespace itm
