// conv2d/input on matrix units: the same places, and the products of gemm/matrix
enable f16;
enable wgpu_cooperative_matrix;

// include conv2d/input
// include gemm/loads
// include gemm/matrix
