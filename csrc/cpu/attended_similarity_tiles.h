// Similarity vectors of all (image, word) pairs, and their gradients, without the attended contexts ever being written:
//   parallel over images (backward: over fixed runs of images) x blocks of captions
//     S tile -> attention weights
//     runs of kDimensionRun numbers of the dimension: contexts . -> (context - word)^2 -> product with the weight's
//     slice
// Of what goes through a run, a block of words holds 100 kB. What is summed over images (gradients of words, weight and
// bias) is summed over runs of images, and these sums are added in their order: results do not depend on the number of
// threads.
#pragma once

#include "attended_similarity.h"
#include "engine.h"
#include "engine_backward.h"

namespace itm {

constexpr int64_t kAttendedColumns = 144;  // words of a block
constexpr int64_t kRunImages = 4;          // a sum over fewer images would cost more time to add up

// The operands that all tiles share. Panels are those of kDimensionRun columns: [dim / kDimensionRun][rows][columns].
template <class T>
struct AttendedOperands {
  static_assert(kDimensionRun == kPanelColumns);
  const Gemm<T, T> gemm;
  const Batch &images, &captions;
  const int64_t dim, n_regions, width, padded_width;  // width: of the similarity vectors
  const double lambda_softmax;
  const Rows<T, T, T> regions;
  const Columns<T, T, T> words;
  const int64_t n_words;  // with the blocks' padding
  Buffer<T> word_panels, weight_panels, weight_transposed;

  AttendedOperands(const Batch& images, const Batch& captions, const Tensor& weight, double lambda_softmax,
                   bool backward)
      : images(images),
        captions(captions),
        dim(images.dim),
        n_regions(images.max),
        width(weight.size(0)),
        padded_width(round_up(width, kColumnMultiple)),
        lambda_softmax(lambda_softmax),
        regions(images, 0, images.n_groups, dim, true, gemm),
        words(captions, 0, captions.n_groups, kAttendedColumns, dim, false, gemm.panel()),
        n_words(total_padded(words.blocks)),
        word_panels(n_words * dim),
        weight_panels(backward ? padded_width * dim : 0),
        weight_transposed(backward ? 0 : padded_width * dim) {
    parallel_items(words.blocks.size(), double(n_words) * dim * kMoveWork,
                   [&](int64_t b) { pack_row_panels<T, T>(captions, words.blocks[b], n_words, word_panels.data()); });
    const Batch rows(torch::stable::unsqueeze(weight, 0), std::nullopt, "weight");
    const Block all{0, 1, width, padded_width, 0};
    if (backward)
      pack_row_panels<T, T>(rows, all, padded_width, weight_panels.data());
    else
      pack_panels<T, T, T>(rows, all, dim, weight_transposed.data(), nullptr);
  }

  int64_t columns_of(int64_t first) const { return std::min(kDimensionRun, dim - first); }
  // Of the similarities, the contexts and the map of all words in one image.
  double work_of_image() const { return double(n_words) * (2 * n_regions + padded_width + kWeighWork / 8) * dim; }
  const T* words_of(const Block& block, int64_t first) const {
    return word_panels + first * n_words + block.start * columns_of(first);
  }
  int64_t first_word(const Block& block) const { return captions.offset[block.begin]; }
};

// What one worker needs for a tile: image by image, block by block.
template <class T>
struct AttendedTile {
  const AttendedOperands<T>& all;
  int64_t image = -1;
  Buffer<T> regions;  // of the image, as panels
  LeftOperand<T, T> left;
  Buffer<T> sims, scratch, weights, contexts, vectors;
  Tile<T> tile{};
  Attended<T> attended{};

  explicit AttendedTile(const AttendedOperands<T>& all)
      : all(all),
        regions(all.n_regions * all.dim),
        left(all.gemm, all.n_regions, all.dim),
        sims(all.n_regions * all.words.stride, true),
        scratch(cross_attention_scratch(all.n_regions, all.words.stride, all.words.groups), true),
        weights(all.n_regions * all.words.stride),
        contexts(all.words.stride * kDimensionRun),
        vectors(all.words.stride * all.padded_width) {
    attended.lambda_softmax = all.lambda_softmax;
    attended.weights = weights.data();
    tile.n_context = all.n_regions;
    tile.sims = sims.data();
    tile.gram_stride = Rows<T, T, T>::gram_stride(all.images, 0);
    tile.scratch = scratch.data();
  }

  void take_image(int64_t i) {
    if (i == image) return;
    image = i;
    tile.gram = all.regions.gram_of(i);
    pack_row_panels<T, T>(all.images, {i, i + 1, all.n_regions, all.n_regions, 0}, all.n_regions, regions.data());
    left.take(all.regions.data + all.regions.row_of(all.images, i) * all.dim, all.n_regions);
  }

  // S of the image and a block of captions.
  void take_block(int64_t b) {
    const Block& block = all.words.blocks[b];
    tile.n_columns = block.vectors;
    tile.n_groups = block.end - block.begin;
    tile.columns = all.words.starts[b].data();
    tile.stride = block.padded + kColumnSlack;
    left.multiply(all.words.panels.data(), block, sims.data(), tile.stride);
  }

  // The unit contexts' numbers from `first` on, [padded words, columns].
  void make_contexts(const Block& block, int64_t first) {
    const int64_t columns = all.columns_of(first);
    all.gemm.in_one_run(block.padded, columns, all.n_regions, weights.data(), all.n_regions,
                        regions + first * all.n_regions, columns, contexts.data(), columns, false);
  }
};

// similarities [n_images, n_words, width] and the lengths [n_images, n_words] they had before they got unit length.
template <class T>
void attended_similarity_tiles(const AttendedOperands<T>& all, const T* bias, T* similarities, T* lengths) {
  const auto weigh = ITM_PICK(attended_weights<T>);
  const auto square = ITM_PICK(squared_differences<T>);
  const auto normalise = ITM_PICK(unit_rows<T>);
  const int64_t n_blocks = all.words.blocks.size(), total = all.captions.total();
  parallel_workers(all.images.n_groups * n_blocks, all.images.n_groups * all.work_of_image(), [&](auto next) {
    AttendedTile<T> t(all);
    for (int64_t item = next(); item >= 0; item = next()) {
      const Block& block = all.words.blocks[item % n_blocks];
      t.take_image(item / n_blocks);
      t.take_block(item % n_blocks);
      weigh(t.tile, t.attended);
      for (int64_t first = 0; first < all.dim; first += kDimensionRun) {
        const int64_t columns = all.columns_of(first);
        t.make_contexts(block, first);
        square(block.padded * columns, t.contexts.data(), all.words_of(block, first));
        for (int64_t j = 0; j < all.padded_width; j += kPanelColumns) {
          const int64_t n = std::min(kPanelColumns, all.padded_width - j);
          all.gemm.in_one_run(block.padded, n, columns, t.contexts.data(), columns,
                              all.weight_transposed + j * all.dim + first * n, n, t.vectors + j, all.padded_width,
                              first > 0);
        }
      }
      const int64_t row = t.image * total + all.first_word(block);
      normalise(block.vectors, all.width, all.padded_width, t.vectors.data(), bias, similarities + row * all.width,
                lengths + row);
    }
  });
}

// What the backward pass reads besides the operands, and the gradients it writes.
template <class T>
struct AttendedGradients {
  const T *grad, *similarities, *lengths;  // as the forward pass wrote them; grad is the cotangent
  T *regions, *words, *weight, *bias;      // words without padding, [n_words, dim]
};

// Copies rows of panels [dim / kDimensionRun][rows][columns] to [n_rows, dim], or adds them.
template <class T>
void add_panels(int64_t rows, int64_t dim, const T* panels, int64_t first_row, int64_t n_rows, bool add, T* to) {
  for (int64_t first = 0; first < dim; first += kDimensionRun) {
    const int64_t columns = std::min(kDimensionRun, dim - first);
    for (int64_t r = 0; r < n_rows; r++) {
      const T* from = panels + first * rows + (first_row + r) * columns;
      T* out = to + r * dim + first;
      for (int64_t d = 0; d < columns; d++) out[d] = add ? out[d] + from[d] : from[d];
    }
  }
}

template <class T>
class AttendedBackward : AttendedTile<T> {
 public:
  AttendedBackward(const AttendedOperands<T>& all, const AttendedGradients<T>& gradients)
      : AttendedTile<T>(all),
        g(gradients),
        region_width(round_up(all.n_regions, kColumnMultiple)),
        transposed_regions(region_width * all.dim),
        transposed_vectors(all.words.stride * all.padded_width),
        grad_contexts(all.words.stride * kDimensionRun),
        projections(all.words.stride * region_width),
        grad_sims(all.n_regions * all.words.stride),
        grad_sims_transposed(all.n_regions * all.words.stride),
        grad_regions(all.n_regions * all.dim),
        grad_gram(this->tile.gram_stride * this->tile.gram_stride),
        dot(all.words.stride),
        grad_words(all.n_words * all.dim),
        grad_weight(all.padded_width * all.dim),
        grad_bias(all.width) {
    this->tile.grad_sims = grad_sims.data();
    this->tile.grad_gram = grad_gram.data();
    this->attended.dot = dot.data();
    this->attended.projections = projections.data();
    this->attended.projections_stride = region_width;
    this->attended.grad_sims_transposed = grad_sims_transposed.data();
  }

  void start_run() {
    for (const Buffer<T>* sum : {&grad_words, &grad_weight, &grad_bias}) std::fill_n(sum->data(), sum->size(), T(0));
  }

  void image(int64_t i) {
    const auto& all = this->all;
    this->take_image(i);
    pack_panels<T, T, T>(all.images, {i, i + 1, all.n_regions, region_width, 0}, all.dim, transposed_regions.data(),
                         nullptr);
    std::fill_n(grad_regions.data(), all.n_regions * all.dim, T(0));
    std::fill_n(grad_gram.data(), this->tile.gram_stride * this->tile.gram_stride, T(0));
    for (size_t b = 0; b < all.words.blocks.size(); b++) block(b);
    for (int64_t first = 0; first < all.dim; first += kDimensionRun) {
      const int64_t columns = all.columns_of(first);
      T* sum = grad_regions + first * all.n_regions;
      all.gemm.in_one_run(all.n_regions, columns, all.n_regions, grad_gram.data(), this->tile.gram_stride,
                          this->regions + first * all.n_regions, columns, sum, columns, true);
      for (int64_t r = 0; r < all.n_regions; r++)
        std::copy_n(sum + r * columns, columns, g.regions + (i * all.n_regions + r) * all.dim + first);
    }
  }

  // Adds what the run has summed to the gradients, or is the first to write them.
  void end_run(bool add) const {
    const auto& all = this->all;
    for (const Block& block : all.words.blocks)
      add_panels<T>(all.n_words, all.dim, grad_words.data(), block.start, block.vectors, add,
                    g.words + all.first_word(block) * all.dim);
    add_panels<T>(all.padded_width, all.dim, grad_weight.data(), 0, all.width, add, g.weight);
    const T* sum = grad_bias.data();
    for (int64_t j = 0; j < all.width; j++) g.bias[j] = add ? g.bias[j] + sum[j] : sum[j];
  }

 private:
  const AttendedGradients<T> g;
  const int64_t region_width;
  Buffer<T> transposed_regions, transposed_vectors, grad_contexts, projections, grad_sims, grad_sims_transposed,
      grad_regions, grad_gram, dot;
  Buffer<T> grad_words, grad_weight, grad_bias;  // of a run; words and weight as panels

  void block(int64_t b) {
    const auto& all = this->all;
    const Block& block = all.words.blocks[b];
    this->take_block(b);
    const T* scaled = ITM_PICK(attended_weights_kept<T>)(this->tile, this->attended);
    const int64_t row = this->image_number() * all.captions.total() + all.first_word(block);
    ITM_PICK(unit_rows_backward<T>)(block.vectors, block.padded, all.width, all.padded_width, g.grad + row * all.width,
                                    g.similarities + row * all.width, g.lengths + row, this->vectors.data(),
                                    transposed_vectors.data(), grad_bias.data());
    std::fill_n(dot.data(), block.padded, T(0));
    for (int64_t first = 0; first < all.dim; first += kDimensionRun) dimension_run(block, first, scaled);
    ITM_PICK(attended_weights_backward<T>)(this->tile, this->attended);
    for (int64_t first = 0; first < all.dim; first += kDimensionRun) {
      const int64_t columns = all.columns_of(first);
      all.gemm.in_one_run(all.n_regions, columns, block.padded, grad_sims.data(), this->tile.stride,
                          all.words_of(block, first), columns, grad_regions + first * all.n_regions, columns, true);
      all.gemm.in_one_run(block.padded, columns, all.n_regions, grad_sims_transposed.data(), all.n_regions,
                          this->regions + first * all.n_regions, columns,
                          grad_words + first * all.n_words + block.start * columns, columns, true);
    }
  }

  void dimension_run(const Block& block, int64_t first, const T* scaled) {
    const auto& all = this->all;
    const int64_t columns = all.columns_of(first);
    this->make_contexts(block, first);
    all.gemm.in_one_run(block.padded, columns, all.padded_width, this->vectors.data(), all.padded_width,
                        all.weight_panels + first * all.padded_width, columns, grad_contexts.data(), columns, false);
    ITM_PICK(squared_differences_backward<T>)(block.padded, columns, all.words_of(block, first), this->contexts.data(),
                                              grad_contexts.data(),
                                              grad_words + first * all.n_words + block.start * columns, dot.data());
    all.gemm.in_one_run(all.padded_width, columns, block.padded, transposed_vectors.data(), block.padded,
                        this->contexts.data(), columns, grad_weight + first * all.padded_width, columns, true);
    all.gemm.in_one_run(all.n_regions, columns, block.padded, scaled, this->tile.stride, grad_contexts.data(), columns,
                        grad_regions + first * all.n_regions, columns, true);
    for (int64_t j = 0; j < region_width; j += kPanelColumns) {
      const int64_t n = std::min(kPanelColumns, region_width - j);
      all.gemm.in_one_run(block.padded, n, columns, grad_contexts.data(), columns,
                          transposed_regions + j * all.dim + first * n, n, projections + j, region_width, first > 0);
    }
  }

  int64_t image_number() const { return AttendedTile<T>::image; }
};

// Overwrites all four gradients; those of words are without padding, [n_words, dim].
template <class T>
void attended_similarity_backward_tiles(const AttendedOperands<T>& all, const AttendedGradients<T>& gradients) {
  const int64_t n_images = all.images.n_groups;
  InOrder order;
  parallel_workers((n_images + kRunImages - 1) / kRunImages, 3 * n_images * all.work_of_image(), [&](auto next) {
    AttendedBackward<T> backward(all, gradients);
    for (int64_t run = next(); run >= 0; run = next()) {
      InOrder::Turn turn(order, run);
      backward.start_run();
      for (int64_t i = run * kRunImages; i < std::min(n_images, (run + 1) * kRunImages); i++) backward.image(i);
      turn([&] { backward.end_run(run > 0); });
    }
  });
}

}  // namespace itm
