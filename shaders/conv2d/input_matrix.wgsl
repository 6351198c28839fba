// conv2d/input: x̄[n,c,h,v] = Σ_{k,r,s} ȳ[n,k,p,q] · w[k,c,r,s], on matrix units
//
// Elements lie where conv2d/input.wgsl says. gemm/matrix, in the place of gemm/tile, says which invocations compute them.
enable f16;
enable wgpu_cooperative_matrix;

// include conv2d/input
// include gemm/loads
// include gemm/matrix
