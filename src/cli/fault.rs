//! Classifies errors by their kind of fault, which decides the exit code and whether resuming a run may help.

use std::error::Error;
use std::io;

use stssad::data::DataError;
use stssad::engine::case::CaseError;
use stssad::engine::gpu::GpuError;
use stssad::engine::shaders::ReplaceError;
use stssad::engine::tape::GradError;
use stssad::measure::analyze::AnalyzeError;
use stssad::measure::figures::MeasureError;
use stssad::proof::check::CheckError;
use stssad::proof::check::reference::ReferenceError;
use stssad::proof::sanitizer::TrialError;
use stssad::run::archive::ArchiveError;
use stssad::run::claim::ClaimError;
use stssad::run::config::ConfigError;
use stssad::run::execute::RunError;
use stssad::run::fit::FitError;
use stssad::run::folder::FolderError;
use stssad::run::onnx::OnnxError;
use stssad::run::outcome::ReportError;
use stssad::run::report::ComparisonError;
use stssad::run::settings::SettingsError;
use stssad::run::sweep::SweepError;
use stssad::run::web::WebError;
use stssad::run::weights::WeightsError;
use stssad::training::trainer::TrainError;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The command line or a configuration is invalid.
    Usage,
    /// The images or results cannot be used.
    Data,
    /// There is no suitable device, or the work does not fit it.
    Device,
    /// The device has no free memory; other programs may free some.
    Memory,
    /// The device was lost; it may work again after a reset.
    Lost,
    /// Training diverged.
    Diverged,
    /// A file or a stream cannot be read or written.
    Storage,
    /// Another process works in the folder.
    Busy,
    /// A fault in stssad or the driver.
    Internal,
}

impl Fault {
    /// Whether the same run may succeed when it is resumed later.
    pub fn may_pass(self) -> bool {
        matches!(self, Fault::Memory | Fault::Lost | Fault::Storage)
    }
}

/// An error with a known kind of fault.
pub trait Faulty: Error {
    /// The kind of fault.
    fn fault(&self) -> Fault;
}

/// The kind of fault of an error: that of the outermost of its causes with a known kind.
pub fn fault_of<'a>(chain: impl IntoIterator<Item = &'a (dyn Error + 'static)>) -> Fault {
    fn of<E: Faulty + 'static>(link: &(dyn Error + 'static)) -> Option<Fault> {
        link.downcast_ref::<E>().map(Faulty::fault)
    }
    let kinds = [
        of::<AnalyzeError>,
        of::<TrialError>,
        of::<ArchiveError>,
        of::<CaseError>,
        of::<CheckError>,
        of::<ClaimError>,
        of::<ComparisonError>,
        of::<ConfigError>,
        of::<DataError>,
        of::<FolderError>,
        of::<GpuError>,
        of::<GradError>,
        of::<MeasureError>,
        of::<OnnxError>,
        of::<ReferenceError>,
        of::<ReplaceError>,
        of::<ReportError>,
        of::<RunError>,
        of::<SettingsError>,
        of::<SweepError>,
        of::<TrainError>,
        of::<WebError>,
        of::<WeightsError>,
        of::<io::Error>,
    ];
    chain.into_iter().find_map(|link| kinds.iter().find_map(|of| of(link))).unwrap_or(Fault::Internal)
}

impl Faulty for io::Error {
    fn fault(&self) -> Fault {
        Fault::Storage
    }
}

impl Faulty for ArchiveError {
    fn fault(&self) -> Fault {
        Fault::Storage
    }
}

impl Faulty for CaseError {
    fn fault(&self) -> Fault {
        Fault::Usage
    }
}

impl Faulty for CheckError {
    fn fault(&self) -> Fault {
        match self {
            CheckError::Case(error) => error.fault(),
            CheckError::Grad(error) => error.fault(),
        }
    }
}

impl Faulty for ClaimError {
    fn fault(&self) -> Fault {
        match self {
            ClaimError::InUse { .. } => Fault::Busy,
            ClaimError::NotOurs { .. } | ClaimError::File { .. } | ClaimError::OtherCommand { .. } => Fault::Usage,
            ClaimError::Write { .. } | ClaimError::Moved { .. } => Fault::Storage,
        }
    }
}

impl Faulty for FolderError {
    fn fault(&self) -> Fault {
        match self {
            FolderError::Claim(error) => error.fault(),
            FolderError::Report(error) => error.fault(),
            FolderError::Make { .. } | FolderError::Read { .. } => Fault::Storage,
            FolderError::NoRun { .. } | FolderError::NoneUnfinished { .. } => Fault::Usage,
        }
    }
}

impl Faulty for ReplaceError {
    fn fault(&self) -> Fault {
        match self {
            ReplaceError::None(_) | ReplaceError::NoSuchPart { .. } | ReplaceError::Unknown(_) => Fault::Usage,
            ReplaceError::Read { .. } => Fault::Storage,
        }
    }
}

impl Faulty for ComparisonError {
    fn fault(&self) -> Fault {
        Fault::Data
    }
}

impl Faulty for ConfigError {
    fn fault(&self) -> Fault {
        match self {
            ConfigError::Data(error) => error.fault(),
            _ => Fault::Usage,
        }
    }
}

impl Faulty for SettingsError {
    fn fault(&self) -> Fault {
        Fault::Usage
    }
}

impl Faulty for SweepError {
    fn fault(&self) -> Fault {
        match self {
            SweepError::Config { source, .. } => source.fault(),
            _ => Fault::Usage,
        }
    }
}

impl Faulty for GradError {
    fn fault(&self) -> Fault {
        Fault::Internal
    }
}

impl Faulty for DataError {
    fn fault(&self) -> Fault {
        match self {
            DataError::Setting(_) => Fault::Usage,
            DataError::Unwritable { .. } => Fault::Storage,
            _ => Fault::Data,
        }
    }
}

impl Faulty for GpuError {
    fn fault(&self) -> Fault {
        match self {
            GpuError::NoSuchAdapter { .. } => Fault::Usage,
            GpuError::NoAdapter(_)
            | GpuError::Unusable { .. }
            | GpuError::TooLarge { .. }
            | GpuError::Foreign { .. } => Fault::Device,
            GpuError::OutOfMemory { .. } => Fault::Memory,
            GpuError::Lost { .. } => Fault::Lost,
            _ => Fault::Internal,
        }
    }
}

impl Faulty for MeasureError {
    fn fault(&self) -> Fault {
        match self {
            MeasureError::Gpu(error) => error.fault(),
            MeasureError::NoSuchKernel(..) | MeasureError::NothingChanged(_) => Fault::Usage,
            MeasureError::Write { .. } | MeasureError::Read { .. } => Fault::Storage,
            MeasureError::NoTime(_) => Fault::Internal,
        }
    }
}

impl Faulty for ReportError {
    fn fault(&self) -> Fault {
        Fault::Storage
    }
}

impl Faulty for OnnxError {
    fn fault(&self) -> Fault {
        match self {
            OnnxError::Tiles(_) => Fault::Usage,
            OnnxError::Unknown(_) => Fault::Internal,
            OnnxError::Write { .. } => Fault::Storage,
        }
    }
}

impl Faulty for WebError {
    fn fault(&self) -> Fault {
        match self {
            WebError::Tiles(_) | WebError::Channels(_) => Fault::Usage,
            WebError::TooLarge { .. } => Fault::Device,
            WebError::Write { .. } => Fault::Storage,
            WebError::Data(error) => error.fault(),
            WebError::Shader(_) | WebError::Grad(_) => Fault::Internal,
        }
    }
}

impl Faulty for TrainError {
    fn fault(&self) -> Fault {
        match self {
            TrainError::Gpu(error) => error.fault(),
            TrainError::Grad(error) => error.fault(),
            TrainError::Data(error) => error.fault(),
            TrainError::Mismatch { .. } => Fault::Data,
            TrainError::Diverged { .. } | TrainError::NoStart(_) => Fault::Diverged,
        }
    }
}

impl Faulty for FitError {
    fn fault(&self) -> Fault {
        match self {
            FitError::Config(error) => error.fault(),
            FitError::Train(error) => error.fault(),
            FitError::Gpu(error) => error.fault(),
            FitError::MicroBatches { .. } | FitError::Size { .. } => Fault::Device,
        }
    }
}

impl Faulty for WeightsError {
    fn fault(&self) -> Fault {
        Fault::Data
    }
}

impl Faulty for RunError {
    fn fault(&self) -> Fault {
        match self {
            RunError::Config(error) => error.fault(),
            RunError::Data(error) => error.fault(),
            RunError::Weights(error) => error.fault(),
            RunError::Train(error) => error.fault(),
            RunError::Fit(error) => error.fault(),
            RunError::Score(_) => Fault::Diverged,
            RunError::Archive(error) => error.fault(),
            RunError::Report(error) => error.fault(),
            RunError::Folder(error) => error.fault(),
            RunError::Mismatch { .. } => Fault::Data,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(error: &(dyn Error + 'static)) -> Fault {
        fault_of([error])
    }

    #[test]
    fn the_kind_of_fault_is_found_through_wrapping_errors() {
        let lost = || GpuError::Lost { at: "step 3".into(), reason: "Unknown reset".into() };
        assert_eq!(of(&lost()), Fault::Lost);
        assert_eq!(of(&RunError::Train(TrainError::Gpu(lost()))), Fault::Lost);
        assert_eq!(of(&MeasureError::Gpu(lost())), Fault::Lost);
        let size = FitError::Size { size: stssad::data::Size::square(512), limit: 1, alternatives: Vec::new() };
        assert_eq!(of(&RunError::Fit(size)), Fault::Device);
        let diverged = TrainError::Diverged { start: 0, step: 1, what: "loss" };
        assert_eq!(of(&RunError::from(diverged)), Fault::Diverged);
        let full = ReportError::Write { path: "a".into(), source: io::Error::other("full") };
        assert_eq!(of(&RunError::from(full)), Fault::Storage);
        // The outermost error decides: an unreadable folder is unusable data, although its cause is an I/O error.
        let unreadable = DataError::Unreadable { path: "a".into(), source: io::Error::other("gone") };
        let context = anyhow::Error::from(unreadable).context("the job a");
        assert_eq!(fault_of(context.chain()), Fault::Data);
        assert_eq!(of(&std::fmt::Error), Fault::Internal);
    }

    #[test]
    fn only_some_faults_are_worth_resuming() {
        let passing = [Fault::Memory, Fault::Lost, Fault::Storage];
        for fault in [Fault::Usage, Fault::Data, Fault::Device, Fault::Diverged, Fault::Internal] {
            assert!(!fault.may_pass(), "{fault:?}");
        }
        assert!(passing.iter().all(|fault| fault.may_pass()));
    }
}
