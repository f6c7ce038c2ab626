// Tile products of float32 and float64.

template <class T>
TileProduct<T, T> tile_product() {
  using namespace tile_product_impl;
  using Kind = Numbers<T>;
  return {product_of_rows<Kind>, product_of_panels<Kind, false>, product_of_panels<Kind, true>,
          pack_left<Kind>,       kVectorsAtOnce * kLanes<T>,     kLanes<T>,
          product_of_list<T>,    kLanes<T> / kMostSharing};
}

template TileProduct<float, float> tile_product();
template TileProduct<double, double> tile_product();
