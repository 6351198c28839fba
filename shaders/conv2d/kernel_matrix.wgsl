// conv2d/kernel on matrix units: the same places, and the products of gemm/matrix
enable f16;
enable wgpu_cooperative_matrix;

// include conv2d/kernel
// include gemm/loads
// include gemm/matrix
