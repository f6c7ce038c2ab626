// The backward pass of given pairs. S is made again tile by tile; an owner's gradient is summed by the worker that goes
// through its list, while dS of a bounded number of owners is kept for the members' gradients, which are summed after
// it, member by member. Sums run in a fixed order, whatever the number of threads.
#pragma once

#include "engine_backward.h"
#include "pairs.h"

namespace itm {

// Of the pairs of some owners, what the members' gradients need: dS [member's vectors, owner's], and kappa of the
// member's vectors where they are queries, or dG where they are the context.
template <class T>
struct PairGradients {
  int64_t first;                              // pair
  std::vector<int64_t> offset, extra_offset;  // [pairs + 1]
  Buffer<T> sims, extra;

  template <class Count, class Extra>
  PairGradients(int64_t first, int64_t last, Count&& numbers, Extra&& extra_numbers)
      : first(first), offset(1, 0), extra_offset(1, 0) {
    for (int64_t i = first; i < last; i++) {
      offset.push_back(offset.back() + numbers(i));
      extra_offset.push_back(extra_offset.back() + extra_numbers(i));
    }
    sims = Buffer<T>(offset.back());
    extra = Buffer<T>(extra_offset.back(), true);
  }
  T* sims_of(int64_t pair) const { return sims + offset[pair - first]; }
  T* extra_of(int64_t pair) const { return extra + extra_offset[pair - first]; }
  int64_t n_extra(int64_t pair) const { return extra_offset[pair - first + 1] - extra_offset[pair - first]; }
};

// out [n, dim] += square [n, n] . rows [n, dim]
template <class T>
void add_square(const Gemm<T, T>& gemm, int64_t n, int64_t dim, const T* square, int64_t stride, const T* rows,
                int64_t row_stride, T* out) {
  for (int64_t d = 0; d < dim; d += kPanelColumns)
    gemm(n, std::min(kPanelColumns, dim - d), n, square, stride, rows + d, row_stride, out + d, dim, true);
}

// One owner's gradient, and dS of its pairs.
template <class In, class T>
class OwnerGradient : PairTile<In, T> {
 public:
  OwnerGradient(const Batch& owners, const Members<In, T>& members, const PairLists& lists,
                const Similarity<T>& similarity, bool owner_is_context, const T* grad_scores, In* grad_owner,
                T* grad_parameter)
      : PairTile<In, T>(owners, members, lists, similarity, owner_is_context),
        grad_scores(grad_scores),
        grad_parameter(grad_parameter),
        grad_owner(grad_owner),
        whole_owner(owners, this->most),
        sum(this->most * this->dim),
        grad(this->most * this->stride, true),
        pair_grad(owner_is_context ? 0 : members.largest * this->pair_stride, true),
        slice(this->stride * kPanelColumns),
        grad_gram(this->gram.size()),
        kappa(std::max(this->stride, this->pair_stride)),
        cotangents(this->limit),
        parameters(this->limit) {}

  void compute(int64_t owner, const PairGradients<T>& kept) {
    this->take_owner(owner);
    std::fill_n(sum.data(), this->n * this->dim, T(0));
    std::fill_n(grad_gram.data(), grad_gram.size(), T(0));
    std::fill_n(kappa.data(), kappa.size(), T(0));
    const int64_t last = this->lists.begin[owner + 1];
    for (int64_t begin = this->lists.begin[owner], end; begin < last; begin = end) {
      end = this->tile_end(begin, last);
      if (this->owner_is_context) {
        this->make_sims(begin, end);
        of_all(begin, end, kept);
      } else {
        this->make_pair_sims(begin, end);
        for (int64_t i = begin; i < end; i++) of_one(begin, i, kept);
      }
      if (grad_owner != nullptr) add_members(begin, end);
    }
    if (grad_owner != nullptr) finish();
  }

 private:
  const T* grad_scores;
  T* grad_parameter;
  In* grad_owner;
  const GroupRows<In, T> whole_owner;
  Buffer<T> sum;   // [n, dim]
  Buffer<T> grad;  // dS [n, stride], the owner's vectors as rows
  Buffer<T> pair_grad, slice, grad_gram, kappa;
  std::vector<T> cotangents, parameters;

  void of_all(int64_t begin, int64_t end, const PairGradients<T>& kept) {
    const auto& lists = this->lists;
    for (int64_t i = begin; i < end; i++) cotangents[i - begin] = grad_scores[lists.slot[i]];
    Tile<T> tile = this->tile_of_all(begin, end);
    std::fill_n(kappa.data(), tile.n_columns, T(0));
    tile.grad_scores = cotangents.data();
    tile.grad_parameter = grad_parameter != nullptr ? parameters.data() : nullptr;
    tile.grad_sims = grad.data();
    tile.grad_gram = grad_gram.data();
    tile.grad_query = kappa.data();
    this->similarity.backward(tile);
    for (int64_t i = begin; i < end; i++) {
      const int64_t first = this->starts[i - begin], width = this->starts[i - begin + 1] - first;
      if (grad_parameter != nullptr) grad_parameter[lists.slot[i]] = parameters[i - begin];
      ITM_PICK(turn_block<T>)(this->n, width, grad + first, this->stride, kept.sims_of(i), this->n);
      std::copy_n(kappa + first, kept.n_extra(i), kept.extra_of(i));
    }
  }

  void of_one(int64_t begin, int64_t i, const PairGradients<T>& kept) {
    Tile<T> tile = this->tile_of_one(begin, i);
    const int64_t slot = this->lists.slot[i];
    tile.grad_scores = grad_scores + slot;
    tile.grad_parameter = grad_parameter != nullptr ? grad_parameter + slot : nullptr;
    tile.grad_sims = pair_grad.data();
    tile.grad_gram = kept.extra_of(i);
    tile.grad_query = kappa.data();
    this->similarity.backward(tile);
    for (int64_t r = 0; r < tile.n_context; r++)
      std::copy_n(pair_grad + r * this->pair_stride, this->n, kept.sims_of(i) + r * this->n);
    ITM_PICK(turn_block<T>)(tile.n_context, this->n, pair_grad.data(), this->pair_stride,
                            grad + this->starts[i - begin], this->stride);
  }

  // sum += dS . members' vectors, some of their numbers at a time.
  void add_members(int64_t begin, int64_t end) {
    const Batch& batch = this->members.batch;
    for (int64_t d = 0; d < this->dim; d += kPanelColumns) {
      const int64_t width = std::min(kPanelColumns, this->dim - d);
      T* to = slice.data();
      for (int64_t i = begin; i < end; i++) {
        const int64_t member = this->lists.member[i];
        for (int64_t v = 0; v < batch.count(member); v++, to += width) {
          const In* from = batch.vector<In>(member, v) + d;
          for (int64_t c = 0; c < width; c++) to[c] = number_as<T>(from[c]);
        }
      }
      this->gemm.in_one_run(this->n, width, this->starts.back(), grad.data(), this->stride, slice.data(), width,
                            sum + d, this->dim, true);
    }
  }

  void finish() {
    const Batch& owners = this->owners;
    const bool attends = this->similarity.needs_gram;
    const int64_t n = this->n, dim = this->dim, gram_stride = round_up(n, 4);
    if (attends && this->owner_is_context)
      add_square(this->gemm, n, dim, grad_gram.data(), gram_stride, whole_owner.of(this->owner), whole_owner.stride(),
                 sum.data());
    for (int64_t r = 0; r < n; r++) {
      T* row = sum + r * dim;
      bool is_zero = false;
      if (attends && this->owner_is_context) is_zero = this->gram.data()[r * gram_stride + r] == T(0);
      if (attends && !this->owner_is_context) {
        const In* vector = owners.vector<In>(this->owner, r);
        is_zero = this->norm.data()[r] == T(0);
        for (int64_t d = 0; d < dim; d++) row[d] += kappa.data()[r] * number_as<T>(vector[d]);
      }
      store_gradient<In, T>(owners, this->owner, r, row, is_zero, grad_owner);
    }
  }
};

// Sums over the pairs of each member: [vectors, dim], and kappa [vectors] or dG.
template <class In, class T>
class MemberGradients {
 public:
  MemberGradients(const Members<In, T>& members, bool attends)
      : members(members),
        attends(attends),
        is_context(members.gram.size() > 0),
        sum(members.n_vectors * members.dim, true),
        extra(is_context ? members.gram.size()
              : attends  ? members.n_vectors
                         : 0,
              true) {}

  void add(const Batch& owners, const PairLists& lists, int64_t first_owner, int64_t last_owner,
           const PairGradients<T>& kept) {
    const int64_t first = lists.begin[first_owner], last = lists.begin[last_owner];
    std::vector<int64_t> begin(members.place.size() + 1, 0), pairs(last - first), owner(last - first);
    for (int64_t i = first; i < last; i++) begin[lists.member[i] + 1]++;
    std::partial_sum(begin.begin(), begin.end(), begin.begin());
    std::vector<int64_t> next(begin.begin(), begin.end() - 1);
    for (int64_t o = first_owner; o < last_owner; o++)
      for (int64_t i = lists.begin[o]; i < lists.begin[o + 1]; i++) {
        const int64_t at = next[lists.member[i]]++;
        pairs[at] = i;
        owner[at] = o;
      }
    const Gemm<T, T> gemm = Gemm<T, T>::own();
    parallel_workers(members.place.size(), double(kept.offset.back()) * members.dim, [&](auto take) {
      const GroupRows<In, T> rows(owners, largest(owners));
      for (int64_t m = take(); m >= 0; m = take())
        for (int64_t at = begin[m]; at < begin[m + 1]; at++) {
          const int64_t n = owners.count(owner[at]), pair = pairs[at];
          gemm.in_one_run(members.batch.count(m), members.dim, n, kept.sims_of(pair), n, rows.of(owner[at]),
                          rows.stride(), sum + members.place[m] * members.dim, members.dim, true);
          T* to = extra + (is_context ? members.gram_offset[m] : members.place[m]);
          for (int64_t e = 0; e < kept.n_extra(pair); e++) to[e] += kept.extra_of(pair)[e];
        }
    });
  }

  void finish(In* out) {
    const Batch& batch = members.batch;
    const Gemm<T, T> gemm = Gemm<T, T>::own();
    parallel_workers(members.place.size(), double(members.n_vectors) * members.dim * kMoveWork, [&](auto take) {
      const GroupRows<In, T> rows(batch, is_context ? members.largest : 0);
      for (int64_t m = take(); m >= 0; m = take()) {
        if (members.place[m] < 0) continue;
        const int64_t n = batch.count(m), dim = members.dim, gram_stride = round_up(n, 4);
        T* total = sum + members.place[m] * dim;
        if (is_context)
          add_square(gemm, n, dim, extra + members.gram_offset[m], gram_stride, rows.of(m), rows.stride(), total);
        for (int64_t v = 0; v < n; v++) {
          T* row = total + v * dim;
          bool is_zero = false;
          if (is_context) is_zero = members.gram_of(m)[v * gram_stride + v] == T(0);
          if (attends && !is_context) {
            const In* vector = batch.vector<In>(m, v);
            const T kappa = extra.data()[members.place[m] + v];
            is_zero = members.norm.data()[members.place[m] + v] == T(0);
            for (int64_t d = 0; d < dim; d++) row[d] += kappa * number_as<T>(vector[d]);
          }
          store_gradient<In, T>(batch, m, v, row, is_zero, out);
        }
      }
    });
  }

 private:
  const Members<In, T>& members;
  const bool attends, is_context;
  Buffer<T> sum, extra;
};

template <class In, class T>
void score_pairs_backward(const Batch& owners, const Batch& others, bool owner_is_context, const Candidates& candidates,
                          bool owners_list, const Similarity<T>& similarity, const T* grad_scores, In* grad_owner,
                          In* grad_member, T* grad_parameter) {
  const bool attends = similarity.needs_gram;
  const PairLists lists(candidates, owners_list);
  const Members<In, T> members(others, named_members(candidates, owners_list, others.n_groups),
                               attends && owner_is_context, attends && !owner_is_context);
  std::optional<MemberGradients<In, T>> of_members;
  if (grad_member != nullptr) of_members.emplace(members, attends);
  for (int64_t first = 0, last; first < lists.n_owners(); first = last) {
    std::vector<int64_t> n_owner;  // of each pair
    int64_t kept_numbers = 0;
    for (last = first; last < lists.n_owners() && kept_numbers < kGradNumbers; last++)
      for (int64_t i = lists.begin[last]; i < lists.begin[last + 1]; i++) {
        n_owner.push_back(owners.count(last));
        kept_numbers += n_owner.back() * others.count(lists.member[i]);
      }
    const int64_t first_pair = lists.begin[first];
    const PairGradients<T> kept(
        first_pair, lists.begin[last],
        [&](int64_t i) { return n_owner[i - first_pair] * others.count(lists.member[i]); },
        [&](int64_t i) {
          const int64_t n = others.count(lists.member[i]), stride = round_up(n, 4);
          return !attends ? 0 : owner_is_context ? n : stride * stride;
        });
    parallel_workers(last - first, double(kept_numbers) * (2 * others.dim + 2 * kWeighWork), [&](auto next) {
      OwnerGradient<In, T> gradient(owners, members, lists, similarity, owner_is_context, grad_scores, grad_owner,
                                    grad_parameter);
      for (int64_t o = next(); o >= 0; o = next())
        if (lists.begin[first + o] < lists.begin[first + o + 1]) gradient.compute(first + o, kept);
    });
    if (of_members.has_value()) of_members->add(owners, lists, first, last, kept);
  }
  if (of_members.has_value()) of_members->finish(grad_member);
}

}  // namespace itm
