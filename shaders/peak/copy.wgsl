// peak/copy: y = x; a workgroup copies TERMS · 64 consecutive vec4
const TERMS: u32 = 4u;

@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<f32>>;

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(num_workgroups) grid: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let start = (workgroup.y * grid.x + workgroup.x) * TERMS * 64u + lane;
    for (var term = 0u; term < TERMS; term++) {
        let i = start + 64u * term;
        if i < arrayLength(&y) {
            y[i] = x[i];
        }
    }
}
