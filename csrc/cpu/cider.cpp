#include "cider.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <vector>

#include "../host/flat_map.h"
#include "parallel.h"

namespace itm {
namespace {

constexpr double kBlockPairWork = 1 << 11;  // of an image and a caption in a block, 20 ns or so; see parallel.h
constexpr double kPairWork = 1 << 16;       // of one by itself, half a microsecond or so
constexpr int64_t kBlockImages = 128;       // fits the uint8 of a list entry; sums of a caption are 1 kB
constexpr int64_t kBlockCaptions = 16384;   // bounds the transposed block that each worker holds (8 MB in float32)
constexpr int64_t kLanesPadding = 8;        // doubles of the widest vector
constexpr int64_t kDenseFrom = 10;          // a dense list of 128 costs as much as about ten single entries

double penalty(const EncodedCaptions& text, int64_t difference) {
  if (text.sigma == 0) return 1;
  return std::exp(-double(difference * difference) / (2 * text.sigma * text.sigma));
}

// Captions in the order of their length, and where each length begins.
struct ByLength {
  std::vector<int64_t> positions;  // into the captions that were asked for
  std::vector<int64_t> begin;      // of each group; groups share one length
  std::vector<int32_t> lengths;

  ByLength(const EncodedCaptions& text, const int64_t* captions, int64_t n) : positions(n) {
    std::iota(positions.begin(), positions.end(), int64_t(0));
    auto length = [&](int64_t position) { return text.sigma == 0 ? 0 : text.bigrams[captions[position]]; };
    std::stable_sort(positions.begin(), positions.end(), [&](int64_t a, int64_t b) { return length(a) < length(b); });
    for (int64_t i = 0; i < n; i++)
      if (i == 0 || length(positions[i]) != lengths.back()) {
        begin.push_back(i);
        lengths.push_back(length(positions[i]));
      }
    begin.push_back(n);
  }
};

// The references of a block of images by feature. Where an entry goes does not depend on the caption's length, only
// its weight does: so the lists are laid out once, and filled for each length.
class Block {
 public:
  Block(const EncodedCaptions& text, const int64_t* image_ids, int64_t n_images) : text_(text) {
    width_ = (n_images + kLanesPadding - 1) / kLanesPadding * kLanesPadding;
    gather(image_ids, n_images);
    lay_out();
  }

  int32_t list_of(int32_t feature) const { return lists_.find(uint32_t(feature)); }
  int64_t width() const { return width_; }

  ReferenceLists filled_for(int32_t length) {
    std::fill(weights_.begin(), weights_.end(), 0.0);
    for (size_t i = 0; i < penalties_.size(); i++) penalties_[i] = penalty(text_, int64_t(i) + shortest_ - length);
    for (const Entry& entry : entries_) weights_[entry.position] += entry.weight * penalties_[entry.length];
    return {begin_.data(), dense_.data(), images_.data(), weights_.data(), width_};
  }

 private:
  struct Entry {
    int64_t position;  // into weights_; first the list
    double weight;
    int32_t length;  // above shortest_
    int32_t image;
  };

  void gather(const int64_t* image_ids, int64_t n_images) {
    int32_t longest = 0;
    shortest_ = INT32_MAX;
    for (int64_t i = 0; i < n_images; i++)
      for (int64_t r = text_.references[image_ids[i]]; r < text_.references[image_ids[i] + 1]; r++) {
        shortest_ = std::min(shortest_, text_.bigrams[r]);
        longest = std::max(longest, text_.bigrams[r]);
      }
    penalties_.resize(shortest_ <= longest ? longest - shortest_ + 1 : 0);
    for (int64_t i = 0; i < n_images; i++) {
      const int64_t begin = text_.references[image_ids[i]], end = text_.references[image_ids[i] + 1];
      const double scale = 10.0 / double(text_.max_n * (end - begin));
      for (int64_t r = begin; r < end; r++)
        for (int64_t n = 0; n < text_.max_n; n++) {
          const double factor = scale * text_.inverse_norms[r * text_.max_n + n];
          for (int64_t e = text_.offsets[r * text_.max_n + n]; e < text_.offsets[r * text_.max_n + n + 1]; e++) {
            const double weight = factor * text_.idf_squared[text_.features[e]] * text_.counts[e];
            if (weight == 0) continue;  // a word of every image
            const int32_t list = lists_.find_or_add(uint32_t(text_.features[e]), n_lists_);
            n_lists_ += list == n_lists_;
            entries_.push_back({list, weight, text_.bigrams[r] - shortest_, int32_t(i)});
          }
        }
    }
  }

  void lay_out() {
    std::vector<int32_t> last(n_lists_, -1), size(n_lists_, 0);
    for (const Entry& entry : entries_) {  // entries come image by image
      size[entry.position] += last[entry.position] != entry.image;
      last[entry.position] = entry.image;
    }
    begin_.assign(n_lists_ + 1, 0);
    dense_.resize(n_lists_);
    for (int32_t list = 0; list < n_lists_; list++) {
      dense_[list] = size[list] >= kDenseFrom;
      begin_[list + 1] = begin_[list] + (dense_[list] ? width_ : size[list]);
    }
    weights_.resize(begin_.back());
    images_.resize(begin_.back());
    std::fill(last.begin(), last.end(), -1);
    std::fill(size.begin(), size.end(), 0);
    for (Entry& entry : entries_) {
      const int64_t list = entry.position;
      size[list] += last[list] != entry.image;
      last[list] = entry.image;
      entry.position = begin_[list] + (dense_[list] ? entry.image : size[list] - 1);
      images_[entry.position] = uint8_t(entry.image);
    }
  }

  const EncodedCaptions& text_;
  FlatMap<uint32_t> lists_;
  int32_t n_lists_ = 0, shortest_ = 0;
  int64_t width_ = 0;
  std::vector<Entry> entries_;
  std::vector<int64_t> begin_;
  std::vector<uint8_t> dense_, images_;
  std::vector<double> weights_, penalties_;
};

// The features of a caption that some reference of the block has: list numbers and factors.
struct Matches {
  std::vector<int32_t> lists;
  std::vector<double> factors;

  void find(const EncodedCaptions& text, const Block& block, int64_t caption) {
    lists.clear();
    factors.clear();
    for (int64_t n = 0; n < text.max_n; n++) {
      const int64_t row = caption * text.max_n + n;
      for (int64_t e = text.offsets[row]; e < text.offsets[row + 1]; e++) {
        const int32_t list = block.list_of(text.features[e]);
        if (list < 0) continue;
        lists.push_back(list);
        factors.push_back(text.inverse_norms[row] * (text.unary ? 1 : text.counts[e]));
      }
    }
  }
};

}  // namespace

template <class Out>
void cider_block(const EncodedCaptions& text, const int64_t* image_ids, int64_t n_images, const int64_t* caption_ids,
                 int64_t n_captions, Out* out) {
  if (n_images == 0 || n_captions == 0) return;
  const auto sums_of = ITM_PICK(cider_sums);
  const int64_t threads = torch::stable::get_num_threads();
  const int64_t per_worker = (n_images + threads - 1) / threads;
  const int64_t block_images = std::min(kBlockImages, std::max<int64_t>(16, per_worker));
  const int64_t image_blocks = (n_images + block_images - 1) / block_images;
  for (int64_t first = 0; first < n_captions; first += kBlockCaptions) {
    const int64_t count = std::min(kBlockCaptions, n_captions - first);
    const int64_t* captions = caption_ids + first;
    const ByLength order(text, captions, count);
    parallel_workers(image_blocks, kBlockPairWork * n_images * count, [&](auto next) {
      std::vector<double> sums(kBlockImages);
      const std::unique_ptr<Out[]> rows(new Out[count * block_images]);  // [caption, image], sequential to write
      Matches matches;
      for (int64_t item = next(); item >= 0; item = next()) {
        const int64_t top = item * block_images, height = std::min(block_images, n_images - top);
        Block block(text, image_ids + top, height);
        for (size_t group = 0; group < order.lengths.size(); group++) {
          const ReferenceLists references = block.filled_for(order.lengths[group]);
          for (int64_t i = order.begin[group]; i < order.begin[group + 1]; i++) {
            const int64_t position = order.positions[i];
            matches.find(text, block, captions[position]);
            sums_of(references, matches.lists.data(), matches.factors.data(), int64_t(matches.lists.size()),
                    sums.data());
            std::copy_n(sums.data(), height, rows.get() + position * height);
          }
        }
        // Sixteen captions at a time: a row's sixteen numbers are one cache line of the result.
        for (int64_t left = 0; left < count; left += 16)
          for (int64_t i = 0; i < height; i++)
            for (int64_t j = left; j < std::min(left + 16, count); j++)
              out[(top + i) * n_captions + first + j] = rows[j * height + i];
      }
    });
  }
}

template <class Out>
void cider_pairs(const EncodedCaptions& text, const int64_t* image_ids, const int64_t* caption_ids, int64_t n,
                 Out* out) {
  constexpr int64_t kPairsPerItem = 64;
  parallel_workers((n + kPairsPerItem - 1) / kPairsPerItem, kPairWork * n, [&](auto next) {
    std::vector<int32_t> keys;
    std::vector<double> factors;
    for (int64_t item = next(); item >= 0; item = next())
      for (int64_t i = item * kPairsPerItem; i < std::min(n, (item + 1) * kPairsPerItem); i++) {
        // The caption's features in a small open table: numbers are dense, so their low bits are the hash.
        const int64_t row = caption_ids[i] * text.max_n, image = image_ids[i];
        const int64_t n_features = text.offsets[row + text.max_n] - text.offsets[row];
        size_t size = 128;
        while (size < size_t(4 * n_features)) size *= 2;
        keys.assign(size, -1);
        factors.resize(size);
        for (int64_t k = 0; k < text.max_n; k++)
          for (int64_t e = text.offsets[row + k]; e < text.offsets[row + k + 1]; e++) {
            size_t slot = size_t(text.features[e]) & (size - 1);
            while (keys[slot] >= 0) slot = (slot + 1) & (size - 1);
            keys[slot] = text.features[e];
            factors[slot] = text.inverse_norms[row + k] * (text.unary ? 1 : text.counts[e]);
          }
        double total = 0;
        const int64_t begin = text.references[image], end = text.references[image + 1];
        for (int64_t r = begin; r < end; r++) {
          double sum = 0;
          for (int64_t k = 0; k < text.max_n; k++) {
            double of_order = 0;
            for (int64_t e = text.offsets[r * text.max_n + k]; e < text.offsets[r * text.max_n + k + 1]; e++) {
              const int32_t feature = text.features[e];
              size_t slot = size_t(feature) & (size - 1);
              while (keys[slot] >= 0 && keys[slot] != feature) slot = (slot + 1) & (size - 1);
              if (keys[slot] == feature) of_order += factors[slot] * text.idf_squared[feature] * text.counts[e];
            }
            sum += of_order * text.inverse_norms[r * text.max_n + k];
          }
          total += sum * penalty(text, text.bigrams[r] - text.bigrams[caption_ids[i]]);
        }
        out[i] = Out(10.0 / double(text.max_n * (end - begin)) * total);
      }
  });
}

template void cider_block(const EncodedCaptions&, const int64_t*, int64_t, const int64_t*, int64_t, float*);
template void cider_block(const EncodedCaptions&, const int64_t*, int64_t, const int64_t*, int64_t, double*);
template void cider_pairs(const EncodedCaptions&, const int64_t*, const int64_t*, int64_t, float*);
template void cider_pairs(const EncodedCaptions&, const int64_t*, const int64_t*, int64_t, double*);

}  // namespace itm
