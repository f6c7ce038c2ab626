// Similarity vectors of (image, caption) pairs, all or given ones, and their gradients, without the attended contexts
// ever being written:
//   parallel over runs of an image's list (backward: over fixed runs of images)
//     tile: the words of as many captions as fill it, where they lie -> S -> attention weights
//     runs of kDimensionRun numbers of the dimension: contexts . -> (context - word)^2 -> product with the weight's
//     slice
// Of what goes through a run, the words of a tile hold 100 kB. What is summed over images (gradients of words, weight
// and bias) is summed over runs of images, and these sums are added in their order: results do not depend on the number
// of threads.
#pragma once

#include "attended_similarity.h"
#include "engine.h"
#include "pairs.h"

namespace itm {

constexpr int64_t kAttendedColumns = 144;  // words of a tile
constexpr int64_t kRunImages = 4;          // a sum over fewer images would cost more time to add up

// What all tiles share. Panels are those of kDimensionRun columns: [dim / kDimensionRun][rows][columns].
template <class T>
struct AttendedOperands {
  static_assert(kDimensionRun == kPanelColumns);
  const Gemm<T, T> gemm = Gemm<T, T>::own();
  const Batch &images, &captions;
  const PairLists& lists;                  // the images own the pairs
  std::vector<int64_t> first_row;          // [slots + 1] of each candidate's words in the result
  const int64_t dim, width, padded_width;  // width: of the similarity vectors
  const int64_t most_regions, padded_regions, most_words;
  const double lambda_softmax;
  Buffer<T> weight_panels, weight_transposed;

  AttendedOperands(const Batch& images, const Batch& captions, const Candidates& candidates, const PairLists& lists,
                   bool of_captions, const Tensor& weight, double lambda_softmax, bool backward)
      : images(images),
        captions(captions),
        lists(lists),
        first_row(rows_of(captions, candidates, of_captions)),
        dim(images.dim),
        width(weight.size(0)),
        padded_width(round_up(width, kColumnMultiple)),
        most_regions(largest(images)),
        padded_regions(round_up(most_regions, kColumnMultiple)),
        most_words(round_up(std::max(kAttendedColumns, largest(captions)), kColumnMultiple)),
        lambda_softmax(lambda_softmax),
        weight_panels(backward ? padded_width * dim : 0),
        weight_transposed(backward ? 0 : padded_width * dim) {
    const Batch rows(torch::stable::unsqueeze(weight, 0), std::nullopt, "weight");
    const Block all{0, 1, width, padded_width, 0};
    if (backward)
      pack_row_panels<T, T>(rows, all, padded_width, weight_panels.data());
    else
      pack_panels<T, T, T>(rows, all, dim, weight_transposed.data(), nullptr);
  }

  static std::vector<int64_t> rows_of(const Batch& captions, const Candidates& candidates, bool of_captions) {
    std::vector<int64_t> rows(1, 0);
    for (int64_t i = 0; i < candidates.n_lists * candidates.k; i++) {
      const int64_t other = candidates.indices[i], caption = of_captions ? i / candidates.k : other;
      rows.push_back(rows.back() + (other < 0 ? 0 : captions.count(caption)));
    }
    return rows;
  }

  int64_t n_rows() const { return first_row.back(); }
  int64_t columns_of(int64_t first) const { return std::min(kDimensionRun, dim - first); }
  // Of the similarities, the contexts and the map of all words.
  double work() const { return double(n_rows()) * (2 * most_regions + padded_width + kWeighWork / 8) * dim; }
};

// What one worker needs for a tile: image by image, along its list.
template <class T>
struct AttendedTile {
  const AttendedOperands<T>& all;
  int64_t image = -1, n_regions = 0, padded = 0;  // padded: words of the tile
  int64_t begin = 0, end = 0;                     // pairs of the tile
  OwnerColumns<T, T> columns;                     // the image's regions
  Buffer<T> regions, gram;                        // of the image, as panels; with itself
  const int64_t pair_stride;
  Buffer<T> pair_sims, sims, scratch, weights, contexts, vectors;
  std::vector<const T*> word_at;
  std::vector<int32_t> starts;
  Tile<T> tile{};
  Attended<T> attended{};

  explicit AttendedTile(const AttendedOperands<T>& all)
      : all(all),
        columns(all.most_regions, all.dim),
        regions(all.most_regions * all.dim),
        gram(round_up(all.most_regions, 4) * round_up(all.most_regions, 4)),
        pair_stride(all.padded_regions + kColumnSlack),
        pair_sims(all.most_words * pair_stride, true),
        sims(all.most_regions * most_stride(), true),
        scratch(cross_attention_scratch(all.most_regions, most_stride(), kAttendedColumns), true),
        weights(all.most_regions * most_stride()),
        contexts(all.most_words * kDimensionRun),
        vectors(all.most_words * all.padded_width) {
    attended.lambda_softmax = all.lambda_softmax;
    attended.weights = weights.data();
    tile.sims = sims.data();
    tile.gram = gram.data();
    tile.scratch = scratch.data();
  }

  int64_t most_stride() const { return all.most_words + kColumnSlack; }

  void take_image(int64_t i) {
    if (i == image) return;
    image = i;
    n_regions = tile.n_context = all.images.count(i);
    tile.gram_stride = round_up(n_regions, 4);
    pack_row_panels<T, T>(all.images, {i, i + 1, n_regions, n_regions, 0}, n_regions, regions.data());
    columns.take(all.images, i, nullptr);
    std::fill_n(gram.data(), tile.gram_stride * tile.gram_stride, T(0));
    word_at.clear();
    list_rows(all.images.template vector<T>(i, 0), n_regions, all.images.vector_stride(), word_at);
    columns.gram(word_at, gram.data());
  }

  // S of the image and as many of its pairs [first, last) as have room; returns the pair after them.
  int64_t take_pairs(int64_t first, int64_t last) {
    const Batch& captions = all.captions;
    const PairLists& lists = all.lists;
    begin = first;
    starts.assign(1, 0);
    word_at.clear();
    for (end = first; end < last; end++) {
      const int64_t n = captions.count(lists.member[end]);
      if (end > first && starts.back() + n > kAttendedColumns) break;
      list_rows(captions.template vector<T>(lists.member[end], 0), n, captions.vector_stride(), word_at);
      starts.push_back(starts.back() + int32_t(n));
    }
    const int64_t n_words = starts.back();
    padded = round_up(n_words, kColumnMultiple);
    tile.n_columns = n_words;
    tile.n_groups = end - begin;
    tile.columns = starts.data();
    tile.stride = padded + kColumnSlack;
    columns.multiply(n_words, columns.n_columns(), word_at, pair_sims.data(), pair_stride);
    ITM_PICK(turn_block<T>)(n_words, n_regions, pair_sims.data(), pair_stride, sims.data(), tile.stride);
    for (int64_t r = 0; r < n_regions; r++)
      std::fill(sims + r * tile.stride + n_words, sims + r * tile.stride + padded, T(0));
    return end;
  }

  // The unit contexts' numbers from `first` on, [padded words, columns].
  void make_contexts(int64_t first) {
    const int64_t width = all.columns_of(first);
    all.gemm.in_one_run(padded, width, n_regions, weights.data(), n_regions, regions + first * n_regions, width,
                        contexts.data(), width, false);
  }

  // each(first column, words, row of the result) of the tile's pairs
  template <class Each>
  void each_pair(const Each& each) const {
    for (int64_t i = begin; i < end; i++) {
      const int64_t at = starts[i - begin];
      each(at, starts[i - begin + 1] - at, all.first_row[all.lists.slot[i]]);
    }
  }
};

// similarities [words of all pairs, width] and the lengths they had before they got unit length, in the order of the
// candidates.
template <class T>
void attended_similarity_tiles(const AttendedOperands<T>& all, const T* bias, T* similarities, T* lengths) {
  const auto weigh = ITM_PICK(attended_weights<T>);
  const auto square = ITM_PICK(squared_differences<T>);
  const auto normalise = ITM_PICK(unit_rows<T>);
  const std::vector<ListRun> runs = cut_lists(all.lists, all.captions);
  parallel_workers(runs.size(), all.work(), [&](auto next) {
    AttendedTile<T> t(all);
    for (int64_t item = next(); item >= 0; item = next()) {
      t.take_image(runs[item].owner);
      for (int64_t i = runs[item].begin; i < runs[item].end;) {
        i = t.take_pairs(i, runs[item].end);
        weigh(t.tile, t.attended);
        for (int64_t first = 0; first < all.dim; first += kDimensionRun) {
          const int64_t columns = all.columns_of(first);
          t.make_contexts(first);
          for (int64_t w = 0; w < t.tile.n_columns; w++)
            square(columns, t.contexts + w * columns, t.word_at[w] + first);
          for (int64_t j = 0; j < all.padded_width; j += kPanelColumns) {
            const int64_t n = std::min(kPanelColumns, all.padded_width - j);
            all.gemm.in_one_run(t.padded, n, columns, t.contexts.data(), columns,
                                all.weight_transposed + j * all.dim + first * n, n, t.vectors + j, all.padded_width,
                                first > 0);
          }
        }
        t.each_pair([&](int64_t at, int64_t n, int64_t row) {
          normalise(n, all.width, all.padded_width, t.vectors + at * all.padded_width, bias,
                    similarities + row * all.width, lengths + row);
        });
      }
    }
  });
}

// What the backward pass reads besides the operands, and the gradients it writes or, of the words, weight and bias,
// adds to: they are zero before.
template <class T>
struct AttendedGradients {
  const T *grad, *similarities, *lengths;  // as the forward pass wrote them; grad is the cotangent
  T *regions, *words, *weight, *bias;      // those of words without padding, [n_words, dim]
};

// out += from
template <class T>
void add_numbers(int64_t n, const T* from, T* out) {
  for (int64_t i = 0; i < n; i++) out[i] += from[i];
}

template <class T>
class AttendedBackward : AttendedTile<T> {
 public:
  AttendedBackward(const AttendedOperands<T>& all, const AttendedGradients<T>& gradients)
      : AttendedTile<T>(all),
        g(gradients),
        transposed_regions(all.padded_regions * all.dim),
        transposed_vectors(all.most_words * all.padded_width),
        grad_contexts(all.most_words * kDimensionRun),
        projections(all.most_words * all.padded_regions),
        grad_sims(all.most_regions * this->most_stride()),
        grad_sims_transposed(all.most_regions * this->most_stride()),
        grad_regions(all.most_regions * all.dim),
        grad_gram(this->gram.size()),
        dot(all.most_words),
        words(all.most_words * kDimensionRun),
        grad_words(all.most_words * kDimensionRun),
        grad(all.most_words * all.width),
        units(all.most_words * all.width),
        lengths(all.most_words),
        grad_weight(all.padded_width * all.dim),
        grad_bias(all.width),
        place(all.captions.n_groups, -1) {
    this->tile.grad_sims = grad_sims.data();
    this->tile.grad_gram = grad_gram.data();
    this->attended.dot = dot.data();
    this->attended.projections = projections.data();
    this->attended.projections_stride = all.padded_regions;
    this->attended.grad_sims_transposed = grad_sims_transposed.data();
  }

  void start_run(int64_t first_image, int64_t last_image) {
    const auto& lists = this->all.lists;
    for (int64_t caption : named) place[caption] = -1;
    named.clear();
    int64_t n_words = 0;
    for (int64_t i = lists.begin[first_image]; i < lists.begin[last_image]; i++) {
      const int64_t caption = lists.member[i];
      if (place[caption] >= 0) continue;
      named.push_back(caption);
      place[caption] = n_words;
      n_words += this->all.captions.count(caption);
    }
    if (n_words * this->all.dim > run_words.size()) run_words = Buffer<T>(n_words * this->all.dim);
    std::fill_n(run_words.data(), n_words * this->all.dim, T(0));
    std::fill_n(grad_weight.data(), grad_weight.size(), T(0));
    std::fill_n(grad_bias.data(), grad_bias.size(), T(0));
  }

  void image(int64_t i) {
    const auto& all = this->all;
    const int64_t last = all.lists.begin[i + 1];
    if (all.lists.begin[i] == last) return;
    this->take_image(i);
    const int64_t n = this->n_regions, gram_stride = this->tile.gram_stride;
    region_width = round_up(n, kColumnMultiple);
    pack_panels<T, T, T>(all.images, {i, i + 1, n, region_width, 0}, all.dim, transposed_regions.data(), nullptr);
    std::fill_n(grad_regions.data(), n * all.dim, T(0));
    std::fill_n(grad_gram.data(), gram_stride * gram_stride, T(0));
    for (int64_t pair = all.lists.begin[i]; pair < last;) {
      pair = this->take_pairs(pair, last);
      pairs();
    }
    for (int64_t first = 0; first < all.dim; first += kDimensionRun) {
      const int64_t columns = all.columns_of(first);
      T* sum = grad_regions + first * n;
      all.gemm.in_one_run(n, columns, n, grad_gram.data(), gram_stride, this->regions + first * n, columns, sum,
                          columns, true);
      for (int64_t r = 0; r < n; r++)
        std::copy_n(sum + r * columns, columns, g.regions + (all.images.rows_before(i) + r) * all.dim + first);
    }
  }

  // Adds what the run has summed to the gradients.
  void end_run() const {
    const auto& all = this->all;
    for (int64_t caption : named)
      add_numbers(all.captions.count(caption) * all.dim, run_words + place[caption] * all.dim,
                  g.words + all.captions.offset[caption] * all.dim);
    for (int64_t first = 0; first < all.dim; first += kDimensionRun) {
      const int64_t columns = all.columns_of(first);
      for (int64_t r = 0; r < all.width; r++)
        add_numbers(columns, grad_weight + first * all.padded_width + r * columns, g.weight + r * all.dim + first);
    }
    add_numbers(all.width, grad_bias.data(), g.bias);
  }

 private:
  const AttendedGradients<T> g;
  int64_t region_width = 0;
  Buffer<T> transposed_regions, transposed_vectors, grad_contexts, projections, grad_sims, grad_sims_transposed,
      grad_regions, grad_gram, dot;
  Buffer<T> words, grad_words;                  // of the tile, some of their numbers at a time
  Buffer<T> grad, units, lengths;               // of the tile
  Buffer<T> run_words, grad_weight, grad_bias;  // of a run: [words of its captions, dim], panels, [width]
  std::vector<int64_t> place, named;  // of each caption, words before its own in the run; -1: in none of its lists

  void pairs() {
    const auto& all = this->all;
    const int64_t n_words = this->tile.n_columns, n = this->n_regions;
    const T* scaled = ITM_PICK(attended_weights_kept<T>)(this->tile, this->attended);
    this->each_pair([&](int64_t at, int64_t count, int64_t row) {
      std::copy_n(g.grad + row * all.width, count * all.width, grad + at * all.width);
      std::copy_n(g.similarities + row * all.width, count * all.width, units + at * all.width);
      std::copy_n(g.lengths + row, count, lengths + at);
    });
    ITM_PICK(unit_rows_backward<T>)(n_words, this->padded, all.width, all.padded_width, grad.data(), units.data(),
                                    lengths.data(), this->vectors.data(), transposed_vectors.data(), grad_bias.data());
    std::fill_n(dot.data(), this->padded, T(0));
    for (int64_t first = 0; first < all.dim; first += kDimensionRun) dimension_run(first, scaled);
    ITM_PICK(attended_weights_backward<T>)(this->tile, this->attended);
    for (int64_t first = 0; first < all.dim; first += kDimensionRun) {
      const int64_t columns = all.columns_of(first);
      take_words(first);
      all.gemm.in_one_run(n, columns, this->padded, grad_sims.data(), this->tile.stride, words.data(), columns,
                          grad_regions + first * n, columns, true);
      all.gemm.in_one_run(this->padded, columns, n, grad_sims_transposed.data(), n, this->regions + first * n, columns,
                          grad_words.data(), columns, false);
      add_words(first);
    }
  }

  void dimension_run(int64_t first, const T* scaled) {
    const auto& all = this->all;
    const int64_t columns = all.columns_of(first), padded = this->padded, n = this->n_regions;
    this->make_contexts(first);
    all.gemm.in_one_run(padded, columns, all.padded_width, this->vectors.data(), all.padded_width,
                        all.weight_panels + first * all.padded_width, columns, grad_contexts.data(), columns, false);
    take_words(first);
    std::fill_n(grad_words.data(), padded * columns, T(0));
    ITM_PICK(squared_differences_backward<T>)(padded, columns, words.data(), this->contexts.data(),
                                              grad_contexts.data(), grad_words.data(), dot.data());
    add_words(first);
    all.gemm.in_one_run(all.padded_width, columns, padded, transposed_vectors.data(), padded, this->contexts.data(),
                        columns, grad_weight + first * all.padded_width, columns, true);
    all.gemm.in_one_run(n, columns, padded, scaled, this->tile.stride, grad_contexts.data(), columns,
                        grad_regions + first * n, columns, true);
    for (int64_t j = 0; j < region_width; j += kPanelColumns) {
      const int64_t width = std::min(kPanelColumns, region_width - j);
      all.gemm.in_one_run(padded, width, columns, grad_contexts.data(), columns,
                          transposed_regions + j * all.dim + first * width, width, projections + j, all.padded_regions,
                          first > 0);
    }
  }

  // words [padded, columns] <- those of the tile, their numbers from `first` on
  void take_words(int64_t first) {
    const int64_t columns = this->all.columns_of(first), n_words = this->tile.n_columns;
    for (int64_t w = 0; w < n_words; w++) std::copy_n(this->word_at[w] + first, columns, words + w * columns);
    std::fill(words + n_words * columns, words + this->padded * columns, T(0));
  }

  // Adds grad_words to those of the run.
  void add_words(int64_t first) {
    const auto& all = this->all;
    const int64_t columns = all.columns_of(first);
    for (int64_t i = this->begin; i < this->end; i++) {
      T* to = run_words + place[all.lists.member[i]] * all.dim + first;
      for (int64_t w = this->starts[i - this->begin]; w < this->starts[i - this->begin + 1]; w++, to += all.dim)
        add_numbers(columns, grad_words + w * columns, to);
    }
  }
};

// All four gradients, of which what no list names has none.
template <class T>
void attended_similarity_backward_tiles(const AttendedOperands<T>& all, const AttendedGradients<T>& gradients) {
  const int64_t n_images = all.images.n_groups;
  InOrder order;
  parallel_workers((n_images + kRunImages - 1) / kRunImages, 3 * all.work(), [&](auto next) {
    AttendedBackward<T> backward(all, gradients);
    for (int64_t run = next(); run >= 0; run = next()) {
      InOrder::Turn turn(order, run);
      const int64_t first = run * kRunImages, last = std::min(n_images, first + kRunImages);
      backward.start_run(first, last);
      for (int64_t i = first; i < last; i++) backward.image(i);
      turn([&] { backward.end_run(); });
    }
  });
}

}  // namespace itm
