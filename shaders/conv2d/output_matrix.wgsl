// conv2d/output: y[n,k,p,q] = Σ_{c,r,s} x[n,c,h,v] · w[k,c,r,s], on matrix units
//
// Elements lie where conv2d/output.wgsl says. gemm/matrix, in the place of gemm/tile, says which invocations compute them.
enable f16;
enable wgpu_cooperative_matrix;

// include conv2d/output
// include gemm/loads
// include gemm/matrix
