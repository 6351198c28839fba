//! The WGSL itself: each file is valid alone, keeps its sums in registers, and agrees with Rust on constants, immediates and
//! bindings.

use naga::valid::{
    Capabilities, FunctionInfo, ModuleInfo, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator,
};
use naga::{
    AddressSpace, Block, Expression, Function, Handle, LocalVariable, Module, Statement, StorageAccess, TypeInner,
};
use stssad::engine::kernel::{Kernel, Scalar};
use stssad::engine::ops::cases;
use stssad::engine::shaders::{PROBES, SOURCES, element_bytes, specialise};
use stssad::proof::check::variants;

fn validated(name: &str, source: &str) -> Module {
    validated_with_types(name, source).0
}

fn validated_with_types(name: &str, source: &str) -> (Module, ModuleInfo) {
    let module = naga::front::wgsl::parse_str(source)
        .unwrap_or_else(|error| panic!("{}", error.emit_to_string_with_path(source, &format!("shaders/{name}.wgsl"))));
    let capabilities = Capabilities::IMMEDIATES
        | Capabilities::SUBGROUP
        | Capabilities::SHADER_FLOAT16
        | Capabilities::COOPERATIVE_MATRIX;
    let types = Validator::new(ValidationFlags::all(), capabilities)
        .subgroup_stages(ShaderStages::COMPUTE)
        .subgroup_operations(SubgroupOperationSet::SHUFFLE)
        .validate(&module)
        .unwrap_or_else(|error| panic!("shaders/{name}.wgsl: {}", error.emit_to_string(source)));
    (module, types)
}

fn type_name(module: &Module, ty: naga::Handle<naga::Type>) -> &'static str {
    use naga::ScalarKind::{Float, Sint, Uint};
    match module.types[ty].inner {
        TypeInner::Scalar(naga::Scalar { kind: Float, width: 4 }) => "f32",
        TypeInner::Scalar(naga::Scalar { kind: Uint, width: 4 }) => "u32",
        TypeInner::Scalar(naga::Scalar { kind: Sint, width: 4 }) => "i32",
        _ => "no 32-bit scalar",
    }
}

/// Name and type of each member of the file's `var<immediate>` struct.
fn immediates(module: &Module) -> Vec<(String, &'static str)> {
    let Some((_, variable)) = module.global_variables.iter().find(|(_, v)| v.space == AddressSpace::Immediate) else {
        return Vec::new();
    };
    let TypeInner::Struct { members, .. } = &module.types[variable.ty].inner else { panic!("immediates are a struct") };
    members.iter().map(|member| (member.name.clone().unwrap(), type_name(module, member.ty))).collect()
}

#[test]
fn every_file_is_valid_alone_and_ends_at_one_entry_point() {
    for (name, source) in SOURCES.iter().chain(PROBES) {
        let module = validated(name, source);
        let entries: Vec<&str> = module.entry_points.iter().map(|entry| entry.name.as_str()).collect();
        assert_eq!(entries, ["main"], "{name}");
        assert!(source.starts_with("// "), "{name}: begins with its formula");
    }
}

#[test]
fn elements_of_bindings_are_as_large_as_their_type_says() {
    for (name, source) in SOURCES.iter().chain(PROBES) {
        let module = validated(name, source);
        for (_, variable) in module.global_variables.iter() {
            let Some(binding) = &variable.binding else { continue };
            let TypeInner::Array { stride, .. } = module.types[variable.ty].inner else { panic!("{name}: no array") };
            let told = element_bytes(source, binding.binding as usize);
            assert_eq!(told, u64::from(stride).max(4), "{name}: binding {}", binding.binding);
        }
    }
}

#[test]
fn every_specialisation_is_valid_and_means_what_rust_says() {
    let mut seen: Vec<Kernel> = Vec::new();
    for (_, case) in cases() {
        for kernel in variants(&case) {
            let is_same = |other: &Kernel| other.specialisation() == kernel.specialisation();
            if seen.iter().any(is_same) {
                continue;
            }
            let source = specialise(&kernel).unwrap_or_else(|error| panic!("{case}: {error}"));
            let module = validated(kernel.name, &source);

            let declared = |value: &(&'static str, Scalar)| (value.0.to_owned(), value.1.type_name());
            let expected: Vec<_> = kernel.immediates.iter().map(declared).collect();
            assert_eq!(immediates(&module), expected, "{case}: immediates of {}", kernel.name);

            let mut bindings: Vec<(u32, bool)> = Vec::new();
            for (_, variable) in module.global_variables.iter() {
                if let (Some(binding), AddressSpace::Storage { access }) = (&variable.binding, variable.space) {
                    assert_eq!(binding.group, 0, "{case}: {}", kernel.name);
                    bindings.push((binding.binding, access.contains(StorageAccess::STORE)));
                }
            }
            bindings.sort_unstable();
            let arity = case.inputs.len();
            let expected: Vec<(u32, bool)> = (0..=arity).map(|index| (index as u32, index == arity)).collect();
            assert_eq!(bindings, expected, "{case}: bindings of {}", kernel.name);
            seen.push(kernel);
        }
    }
    println!("{} specialisations", seen.len());
}

/// Metal's compiler may assume that no value is NaN, so comparing a value with itself does not detect NaN there.
#[test]
fn no_kernel_looks_for_nan_by_comparing_a_value_with_itself() {
    let compares_itself = |line: &str| {
        let code = line.split("//").next().unwrap();
        let is_operand = |c: char| c.is_alphanumeric() || "_.[]".contains(c);
        ["==", "!="].iter().flat_map(|operator| code.match_indices(operator)).any(|(at, operator)| {
            let (left, right) = (code[..at].trim_end(), code[at + operator.len()..].trim_start());
            let left = &left[left.rfind(|c| !is_operand(c)).map_or(0, |end| end + 1)..];
            let right = &right[..right.find(|c| !is_operand(c)).unwrap_or(right.len())];
            !left.is_empty() && left == right
        })
    };
    assert!(compares_itself("if x[i] != x[i] {") && compares_itself("return select(0.0, x, x == x);"));
    assert!(!compares_itself("if x[i] != x[j] { // x != x"));
    for (name, source) in SOURCES.iter().chain(PROBES) {
        let found = source.lines().position(compares_itself);
        assert_eq!(found, None, "{name}: compare the bits instead");
    }
}

/// SwiftShader's optimiser folds a choice between vectors by a constant condition wrongly. Our conditions often are constant
/// after specialisation, so each component is chosen for itself.
#[test]
fn no_kernel_selects_between_vectors_by_one_condition() {
    let selects = |module: &Module, function: &Function, types: &FunctionInfo| {
        function.expressions.iter().any(|(_, expression)| {
            let Expression::Select { condition, accept, .. } = *expression else { return false };
            let is_splat = matches!(function.expressions[condition], Expression::Splat { .. });
            let is_vector =
                |e: Handle<Expression>| matches!(types[e].ty.inner_with(&module.types), TypeInner::Vector { .. });
            is_vector(accept) && (is_splat || !is_vector(condition))
        })
    };
    let found = |name: &str, source: &str| {
        let (module, types) = validated_with_types(name, source);
        module.functions.iter().any(|(handle, function)| selects(&module, function, &types[handle]))
            || selects(&module, &module.entry_points[0].function, types.get_entry_point(0))
    };
    let choosing = |condition: &str| {
        format!(
            "@compute @workgroup_size(1) fn main(@builtin(workgroup_id) id: vec3<u32>) {{ let y = select(id, id + 1u, {condition}); }}"
        )
    };
    assert!(found("one", &choosing("id.x < 3u")) && found("splat", &choosing("vec3(id.x < 3u)")));
    assert!(!found("each", &choosing("id < vec3(3u)")));
    for (name, source) in SOURCES.iter().chain(PROBES) {
        assert!(!found(name, source), "{name}");
    }
}

/// Whether all invocations of a workgroup meet in the block, or in a function that it calls.
fn has_barrier(module: &Module, block: &Block) -> bool {
    block.iter().any(|statement| match statement {
        Statement::ControlBarrier(_) | Statement::WorkGroupUniformLoad { .. } => true,
        Statement::Call { function, .. } => has_barrier(module, &module.functions[*function].body),
        _ => parts(statement).any(|block| has_barrier(module, block)),
    })
}

/// The blocks of a statement.
fn parts(statement: &Statement) -> impl Iterator<Item = &Block> {
    let blocks: Vec<&Block> = match statement {
        Statement::Block(block) => vec![block],
        Statement::If { accept, reject, .. } => vec![accept, reject],
        Statement::Switch { cases, .. } => cases.iter().map(|case| &case.body).collect(),
        Statement::Loop { body, continuing, .. } => vec![body, continuing],
        _ => Vec::new(),
    };
    blocks.into_iter()
}

/// Calls `each` with every statement of the block and of those within it.
fn for_each<'a>(block: &'a Block, each: &mut impl FnMut(&'a Statement)) {
    for statement in block {
        each(statement);
        parts(statement).for_each(|block| for_each(block, each));
    }
}

/// Whether the value follows from one of these variables.
fn follows(function: &Function, value: Handle<Expression>, from: &[Handle<LocalVariable>]) -> bool {
    let also = |value| follows(function, value, from);
    match function.expressions[value] {
        Expression::LocalVariable(variable) => from.contains(&variable),
        Expression::Load { pointer } => also(pointer),
        Expression::Unary { expr, .. } | Expression::As { expr, .. } => also(expr),
        Expression::Binary { left, right, .. } => also(left) || also(right),
        Expression::Select { condition, accept, reject } => [condition, accept, reject].into_iter().any(also),
        _ => false,
    }
}

/// The variable of the function that an element is of.
fn variable(function: &Function, place: Handle<Expression>) -> Option<Handle<LocalVariable>> {
    match function.expressions[place] {
        Expression::LocalVariable(variable) => Some(variable),
        Expression::Access { base, .. } | Expression::AccessIndex { base, .. } => variable(function, base),
        _ => None,
    }
}

/// The invocations' own arrays that a loop with barriers indexes by what it counts.
fn in_memory(module: &Module) -> Vec<String> {
    let entries = module.entry_points.iter().map(|entry| &entry.function);
    let mut found = Vec::new();
    for function in module.functions.iter().map(|(_, function)| function).chain(entries) {
        for_each(&function.body, &mut |statement| {
            let Statement::Loop { body, continuing, .. } = statement else { return };
            if !has_barrier(module, body) {
                return;
            }
            let mut counted = Vec::new();
            for_each(continuing, &mut |statement| {
                if let Statement::Store { pointer, .. } = statement {
                    counted.extend(variable(function, *pointer));
                }
            });
            for_each(body, &mut |statement| {
                let Statement::Emit(emitted) = statement else { return };
                for value in emitted.clone() {
                    if let Expression::Access { base, index } = function.expressions[value]
                        && follows(function, index, &counted)
                        && let Some(array) = variable(function, base)
                    {
                        found.push(function.local_variables[array].name.clone().unwrap_or_default());
                    }
                }
            });
        });
    }
    found.dedup();
    found
}

/// A driver that does not unroll such a loop (NVIDIA's was the first) keeps the array in memory, for the whole kernel: matrix
/// products ran at a twentieth of their rate.
#[test]
fn no_loop_with_barriers_indexes_what_is_to_lie_in_registers() {
    let planted = "var<workgroup> shared_sums: array<f32, 64>;
        fn meet() { workgroupBarrier(); }
        @compute @workgroup_size(64) fn main(@builtin(local_invocation_index) lane: u32) {
            var sums: array<f32, 8>;
            var others: array<f32, 8>;
            for (var i = 0u; i < 8u; i++) { others[i] = 1.0; }
            for (var i = 0u; i < 8u; i++) {
                shared_sums[lane ^ i] = sums[7u - i] + others[3];
                for (var j = 0u; j < 8u; j++) { others[j] += 1.0; }
                meet();
            }
        }";
    assert_eq!(in_memory(&validated("planted", planted)), ["sums"]);
    for (name, source) in SOURCES.iter().chain(PROBES) {
        assert_eq!(in_memory(&validated(name, source)), [""; 0], "{name}");
    }
}
