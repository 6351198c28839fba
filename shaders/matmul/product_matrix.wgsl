// matmul/product on matrix units: the same places, and the products of gemm/matrix
enable f16;
enable wgpu_cooperative_matrix;

// include matmul/product
// include gemm/loads
// include gemm/matrix
