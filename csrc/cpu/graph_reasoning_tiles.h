// All steps of graph reasoning over a tile, an image with a block of captions, while its nodes are in the cache:
//   queries = X form^T + form bias -> edges within each pair -> mixed = edges X -> X <- relu(mixed weight^T + bias)
// Nothing but the result is written; the backward pass makes a tile's steps again. What is summed over tiles, the
// gradients of the parameters, has one sum per run of tiles, added up in their order: results do not depend on the
// number of threads.
#pragma once

#include "engine.h"
#include "graph_reasoning.h"

namespace itm {

constexpr int64_t kGraphNodes = 144;  // of a tile
constexpr int64_t kRunTiles = 12;     // a sum over fewer tiles would cost more time to add up

template <class T>
struct GraphParameters {  // [steps, width, width] and [steps, width]
  T *forms, *form_biases, *weights, *biases;
};

template <class T>
struct GraphOperands {
  const Gemm<T, T> gemm;
  const Batch& words;  // local vectors of one image
  const int64_t n_images, steps, width;
  const T *whole, *local;
  const GraphParameters<const T> parameters;
  const std::vector<Block> blocks;  // of captions, by their words
  // Each matrix as the right operand: transposed (forward) and as it is (backward), in panels of kPanelColumns.
  Buffer<T> forms_transposed, weights_transposed, forms, weights;
  int64_t most_nodes = 0, most_captions = 0, most_edges = 0;

  GraphOperands(const Batch& words, int64_t n_images, int64_t steps, int64_t width, const T* whole, const T* local,
                const GraphParameters<const T>& parameters, bool backward)
      : words(words),
        n_images(n_images),
        steps(steps),
        width(width),
        whole(whole),
        local(local),
        parameters(parameters),
        blocks(cut_blocks(words, 0, words.n_groups, kGraphNodes, 1)),
        forms_transposed(steps * width * width),
        weights_transposed(steps * width * width),
        forms(backward ? steps * width * width : 0),
        weights(backward ? steps * width * width : 0) {
    for (const Block& block : blocks) {
      int64_t edges = 0;
      for (int64_t c = block.begin; c < block.end; c++) edges += nodes_of(c) * nodes_of(c);
      most_nodes = std::max(most_nodes, block.vectors + block.end - block.begin);
      most_captions = std::max(most_captions, block.end - block.begin);
      most_edges = std::max(most_edges, edges);
    }
    for (int64_t at = 0; at < steps * width * width; at += width * width)
      for (auto [from, transposed, plain] :
           {std::tuple{parameters.forms + at, forms_transposed + at, forms.data()},
            std::tuple{parameters.weights + at, weights_transposed + at, weights.data()}})
        for (int64_t first = 0; first < width; first += kPanelColumns) {
          const int64_t columns = std::min(kPanelColumns, width - first);
          for (int64_t row = 0; row < width; row++)
            for (int64_t c = 0; c < columns; c++) {
              transposed[first * width + row * columns + c] = from[(first + c) * width + row];
              if (backward) plain[at + first * width + row * columns + c] = from[row * width + first + c];
            }
        }
  }

  int64_t nodes_of(int64_t caption) const { return words.count(caption) + 1; }
  int64_t n_tiles() const { return n_images * int64_t(blocks.size()); }
  // Of the two maps of every node, and of its edges, which are as many as the nodes of its pair.
  double work() const {
    double of_image = 0;
    for (int64_t c = 0; c < words.n_groups; c++) of_image += 2.0 * nodes_of(c) * (width + nodes_of(c) + kMoveWork);
    return n_images * steps * width * of_image;
  }

  // out [rows, width] = left . matrix in panels
  void times(int64_t rows, const T* left, const T* panels, T* out) const {
    for (int64_t first = 0; first < width; first += kPanelColumns) {
      const int64_t columns = std::min(kPanelColumns, width - first);
      gemm(rows, columns, width, left, width, panels + first * width, columns, out + first, width);
    }
  }
  // out [width, width] += left^T . right, both [rows, width]; scratch: rows * width numbers
  void add_transposed_times(int64_t rows, const T* left, const T* right, T* out, T* scratch) const {
    for (int64_t r0 = 0; r0 < rows; r0 += 16)
      for (int64_t d = 0; d < width; d++)
        for (int64_t r = r0; r < std::min(rows, r0 + 16); r++) scratch[d * rows + r] = left[r * width + d];
    const int64_t even = rows / 16 * 16;  // two runs, so that there are few kinds of micro-kernel to generate
    for (int64_t first = 0; first < width; first += kPanelColumns)
      for (auto [begin, end] : {std::pair{int64_t(0), even}, std::pair{even, rows}})
        if (begin < end)
          gemm.in_one_run(width, std::min(kPanelColumns, width - first), end - begin, scratch + begin, rows,
                          right + begin * width + first, width, out + first, width, true);
  }
};

template <class T>
class GraphTile {
 public:
  explicit GraphTile(const GraphOperands<T>& all)
      : all(all),
        size(all.most_nodes * all.width),
        nodes((all.steps + 1) * size),
        queries(all.steps * size),
        mixed(all.steps * size),
        edges(all.steps * all.most_edges),
        firsts(all.most_captions * all.width) {}

  // out [n_images, n_captions, width]
  void forward(int64_t tile, T* out) {
    take(tile);
    for (int64_t step = 0; step < all.steps; step++) make(step);
    std::copy_n(nodes + all.steps * size, n_captions() * all.width, out + first_caption() * all.width);
  }

  // grad as `out` of the forward pass; grad_whole and grad_local are overwritten, the parameters' added to.
  void backward(int64_t tile, const T* grad, T* grad_whole, T* grad_local, const GraphParameters<T>& sums) {
    const int64_t width = all.width;
    if (grad_nodes.empty())
      for (int64_t n : {size, size, size, size, std::max<int64_t>(all.most_edges, size)}) grad_nodes.emplace_back(n);
    T *grad_x = grad_nodes[0].data(), *grad_out = grad_nodes[1].data(), *grad_mixed = grad_nodes[2].data(),
      *grad_queries = grad_nodes[3].data(), *scratch = grad_nodes[4].data();
    take(tile);
    for (int64_t step = 0; step < all.steps; step++) make(step);
    std::copy_n(grad + first_caption() * width, n_captions() * width, grad_x);
    for (int64_t step = all.steps - 1; step >= 0; step--) {
      const bool last = step == all.steps - 1;
      const int64_t rows = last ? n_captions() : n_nodes, matrix = step * width * width;
      const T* x = nodes + step * size;
      std::swap(grad_x, grad_out);
      ITM_PICK(relu_backward<T>)(rows, width, nodes + (step + 1) * size, grad_out, sums.biases + step * width);
      all.add_transposed_times(rows, grad_out, mixed + step * size, sums.weights + matrix, scratch);
      all.times(rows, grad_out, all.weights + matrix, grad_mixed);
      const T* step_edges = edges + step * all.most_edges;
      each_caption(last, [&](int64_t row, int64_t n_rows, int64_t node, int64_t n) {
        ITM_PICK(graph_edges_backward<T>)(n_rows, n, width, queries + step * size + row * width, x + node * width,
                                          step_edges, grad_mixed + row * width, grad_queries + row * width,
                                          grad_x + node * width, scratch);
        step_edges += n_rows * n;
      });
      ITM_PICK(column_sums<T>)(rows, width, grad_queries, sums.form_biases + step * width);
      if (last) take_firsts(x);
      all.add_transposed_times(rows, grad_queries, last ? firsts.data() : x, sums.forms + matrix, scratch);
      all.times(rows, grad_queries, all.forms + matrix, grad_mixed);
      each_caption(last, [&](int64_t row, int64_t n_rows, int64_t node, int64_t) {
        for (int64_t d = 0; d < n_rows * width; d++) grad_x[node * width + d] += grad_mixed[row * width + d];
      });
    }
    const T* from = grad_x;
    T* to = grad_local + first_word() * width;
    for (int64_t c = 0; c < n_captions(); c++) {
      const int64_t n = all.words.count(block->begin + c) * width;
      std::copy_n(from, width, grad_whole + (first_caption() + c) * width);
      std::copy_n(from + width, n, to);
      from += width + n;
      to += n;
    }
  }

 private:
  const GraphOperands<T>& all;
  const int64_t size;
  Buffer<T> nodes, queries, mixed, edges, firsts;
  std::vector<Buffer<T>> grad_nodes;
  int64_t image = 0, n_nodes = 0;
  const Block* block = nullptr;

  int64_t n_captions() const { return block->end - block->begin; }
  int64_t first_caption() const { return image * all.words.n_groups + block->begin; }
  int64_t first_word() const { return image * all.words.total() + all.words.offset[block->begin]; }

  void take(int64_t tile) {
    image = tile / int64_t(all.blocks.size());
    block = &all.blocks[tile % int64_t(all.blocks.size())];
    n_nodes = block->vectors + n_captions();
    T* to = nodes.data();
    const T* from = all.local + first_word() * all.width;
    for (int64_t c = 0; c < n_captions(); c++) {
      const int64_t n = all.words.count(block->begin + c) * all.width;
      to = std::copy_n(all.whole + (first_caption() + c) * all.width, all.width, to);
      to = std::copy_n(from, n, to);
      from += n;
    }
  }

  // f(first row, rows, first node, nodes) of each caption; in the last step a caption has one row, its first node's.
  template <class F>
  void each_caption(bool last, F&& f) const {
    int64_t row = 0, node = 0;
    for (int64_t c = block->begin; c < block->end; c++) {
      const int64_t n = all.nodes_of(c), n_rows = last ? 1 : n;
      f(row, n_rows, node, n);
      row += n_rows;
      node += n;
    }
  }

  void take_firsts(const T* x) {
    each_caption(true, [&](int64_t row, int64_t, int64_t node, int64_t) {
      std::copy_n(x + node * all.width, all.width, firsts + row * all.width);
    });
  }

  void make(int64_t step) {
    const int64_t width = all.width, matrix = step * width * width;
    const bool last = step == all.steps - 1;
    const int64_t rows = last ? n_captions() : n_nodes;
    const T* x = nodes + step * size;
    T *q = queries + step * size, *y = mixed + step * size, *out = nodes + (step + 1) * size;
    if (last) take_firsts(x);
    all.times(rows, last ? firsts.data() : x, all.forms_transposed + matrix, q);
    ITM_PICK(add_bias<T>)(rows, width, all.parameters.form_biases + step * width, false, q);
    T* step_edges = edges + step * all.most_edges;
    each_caption(last, [&](int64_t row, int64_t n_rows, int64_t node, int64_t n) {
      ITM_PICK(graph_edges<T>)(n_rows, n, width, q + row * width, x + node * width, step_edges, y + row * width);
      step_edges += n_rows * n;
    });
    all.times(rows, y, all.weights_transposed + matrix, out);
    ITM_PICK(add_bias<T>)(rows, width, all.parameters.biases + step * width, true, out);
  }
};

template <class T>
void graph_reasoning_tiles(const GraphOperands<T>& all, T* out) {
  parallel_workers(all.n_tiles(), all.work(), [&](auto next) {
    GraphTile<T> tile(all);
    for (int64_t item = next(); item >= 0; item = next()) tile.forward(item, out);
  });
}

// Overwrites the gradients.
template <class T>
void graph_reasoning_backward_tiles(const GraphOperands<T>& all, const T* grad, T* grad_whole, T* grad_local,
                                    const GraphParameters<T>& gradients) {
  const int64_t matrices = all.steps * all.width * all.width, vectors = all.steps * all.width;
  const int64_t run_size = 2 * (matrices + vectors);
  const std::pair<T*, int64_t> parts[] = {{gradients.forms, matrices},
                                          {gradients.weights, matrices},
                                          {gradients.form_biases, vectors},
                                          {gradients.biases, vectors}};
  InOrder order;
  parallel_workers((all.n_tiles() + kRunTiles - 1) / kRunTiles, 3 * all.work(), [&](auto next) {
    GraphTile<T> tile(all);
    const Buffer<T> sums(run_size);
    const GraphParameters<T> of_run{sums.data(), sums + 2 * matrices, sums + matrices, sums + 2 * matrices + vectors};
    for (int64_t run = next(); run >= 0; run = next()) {
      InOrder::Turn turn(order, run);
      std::fill_n(sums.data(), run_size, T(0));
      for (int64_t i = run * kRunTiles; i < std::min(all.n_tiles(), (run + 1) * kRunTiles); i++)
        tile.backward(i, grad, grad_whole, grad_local, of_run);
      turn([&] {
        const T* sum = sums.data();
        for (auto [to, n] : parts)
          for (int64_t i = 0; i < n; i++, sum++) to[i] = run > 0 ? to[i] + *sum : *sum;
      });
    }
  });
}

}  // namespace itm
