//! The machine a guest sees, as QEMU's command line. One place decides the
//! device set, so that a template and what is restored from it cannot differ.

use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use tombolo_net::address;

/// The path of QEMU in the engine root.
pub(crate) const QEMU_PROGRAM: &str = "/usr/bin/qemu-system-x86_64";
/// The path of the image tool in the engine root.
pub(crate) const QEMU_IMG_PROGRAM: &str = "/usr/bin/qemu-img";
/// Where a jail shows the image directory, the template and the VM's own files.
pub(crate) const JAIL_IMAGE: &str = "/tombolo/image";
pub(crate) const JAIL_TEMPLATE: &str = "/tombolo/template";
pub(crate) const JAIL_SANDBOX: &str = "/tombolo/sandbox";

/// The descriptors a VM's process is given, in the order of the jail.
pub(crate) const AGENT_SOCKET_DESCRIPTOR: i32 = 3;
pub(crate) const MONITOR_SOCKET_DESCRIPTOR: i32 = 4;
pub(crate) const TAP_DESCRIPTOR: i32 = 5;

/// Translated code an emulated VM may hold. It counts as the VM's own memory.
const TRANSLATION_BUFFER_MIB: u32 = 128;
/// What QEMU needs beside the guest's memory, at most.
const OVERHEAD_MIB: u32 = 384;

/// What separates a guest from the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// A VM run by the processor's own virtualisation.
    Kvm,
    /// The same VM, its processor emulated in software.
    Emulated,
}

impl Isolation {
    /// The name people and machines read: `kvm` or `emulated`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Emulated => "emulated",
        }
    }
}

/// What a VM is made like; equal shapes can share a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Shape {
    pub(crate) memory_mib: u32,
    pub(crate) vcpu_count: u32,
    pub(crate) disk_gib: u32,
    pub(crate) isolation_is_kvm: bool,
}

impl Shape {
    pub(crate) fn isolation(self) -> Isolation {
        if self.isolation_is_kvm {
            Isolation::Kvm
        } else {
            Isolation::Emulated
        }
    }

    pub(crate) fn memory_limit_bytes(self) -> u64 {
        u64::from(self.memory_mib + OVERHEAD_MIB) * 1024 * 1024
    }
}

/// How the VM begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Start {
    /// From the kernel on, writing its memory to the file that becomes the
    /// template's.
    Boot(BootPaths),
    /// From a template's device state; its memory is a private view of the
    /// template's file. The kernel's image is not even loaded: it is in there.
    Restore,
}

/// The whole command line, without the program's name.
pub(crate) fn arguments(shape: Shape, start: &Start) -> Vec<OsString> {
    let mut arguments = Vec::new();
    let mut add = |flag: &str, value: String| {
        arguments.push(OsString::from(flag));
        if !value.is_empty() {
            arguments.push(OsString::from(value));
        }
    };
    add("-nodefaults", String::new());
    add("-no-user-config", String::new());
    add("-no-reboot", String::new());
    add("-display", "none".to_owned());
    let sandbox = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";
    add("-sandbox", sandbox.to_owned());
    // Without HPET: once the guest has touched it, QEMU wakes 250 times a second
    // for it, in every idle VM. Not `microvm`: it has no clock to check the processor's against, and under
    // load its kernel then never gets past calibration.
    add(
        "-machine",
        "q35,hpet=off,sata=off,smbus=off,vmport=off,i8042=off,smm=off,graphics=off,memory-backend=ram"
            .to_owned(),
    );
    add("-m", shape.memory_mib.to_string());
    add("-smp", shape.vcpu_count.to_string());
    add("-object", memory(shape, start));
    match shape.isolation() {
        Isolation::Kvm => {
            add("-accel", "kvm".to_owned());
            add("-cpu", "host".to_owned());
        }
        Isolation::Emulated => {
            add("-accel", format!("tcg,tb-size={TRANSLATION_BUFFER_MIB}"));
            // Five-level page tables only lengthen every emulated look-up.
            add("-cpu", "max,la57=off".to_owned());
        }
    }
    add_devices(&mut add);
    match start {
        Start::Restore => add("-incoming", "defer".to_owned()),
        Start::Boot(paths) => {
            add("-kernel", paths.kernel.clone());
            add("-initrd", paths.initramfs.clone());
            add("-append", kernel_command_line(shape));
        }
    }
    arguments
}

fn add_devices(add: &mut impl FnMut(&str, String)) {
    // Its standard output, on which QEMU itself writes nothing.
    add("-chardev", "stdio,id=console,signal=off".to_owned());
    add("-serial", "chardev:console".to_owned());
    add("-chardev", socket("monitor", MONITOR_SOCKET_DESCRIPTOR));
    add("-mon", "chardev=monitor,mode=control".to_owned());
    add(
        "-blockdev",
        format!("driver=file,node-name=rootfile,filename={JAIL_SANDBOX}/disk.qcow2,discard=unmap"),
    );
    // A sandbox's disk does not outlive its memory, so neither needs flushing.
    add(
        "-blockdev",
        "driver=qcow2,node-name=root,file=rootfile,discard=unmap,detect-zeroes=unmap,\
         cache.no-flush=on"
            .to_owned(),
    );
    // When the host's disk is full the guest is told that its write failed. By
    // default QEMU would stop the machine, and whoever waits for it would hang.
    add(
        "-device",
        "virtio-blk-pci,drive=root,werror=report,rerror=report".to_owned(),
    );
    add("-netdev", format!("tap,id=net,fd={TAP_DESCRIPTOR}"));
    // No firmware to boot from the network, and nothing to announce after a restore:
    // the guest has moved nowhere.
    add(
        "-device",
        format!(
            "virtio-net-pci,netdev=net,mac={},romfile=,guest_announce=off",
            hardware_address(address::GUEST_MAC)
        ),
    );
    add("-chardev", socket("agent", AGENT_SOCKET_DESCRIPTOR));
    add("-device", "virtio-serial-pci,max_ports=2".to_owned());
    add(
        "-device",
        format!(
            "virtserialport,id=agentport,chardev=agent,name={}",
            tombolo_guest_proto::channel::PORT_NAME
        ),
    );
}

/// As people and QEMU write it.
pub(crate) fn hardware_address(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

/// Where the kernel's parts are, as seen in the jail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BootPaths {
    pub(crate) kernel: String,
    pub(crate) initramfs: String,
}

fn memory(shape: Shape, start: &Start) -> String {
    let size = shape.memory_mib;
    match start {
        Start::Boot(_) => {
            format!("memory-backend-file,id=ram,size={size}M,mem-path={JAIL_SANDBOX}/ram,share=on")
        }
        Start::Restore => format!(
            "memory-backend-file,id=ram,size={size}M,mem-path={JAIL_TEMPLATE}/ram,\
             share=off,readonly=on,rom=off"
        ),
    }
}

fn socket(id: &str, descriptor: i32) -> String {
    format!("socket,id={id},fd={descriptor},server=on,wait=off")
}

fn kernel_command_line(shape: Shape) -> String {
    let common = "console=ttyS0 panic=-1 reboot=t tsc=reliable";
    match shape.isolation() {
        // It talks from its first instruction on, so that a KVM on which it
        // gets nowhere is known by its silence.
        Isolation::Kvm => format!("{common} earlyprintk=ttyS0"),
        // The emulated processor does not speculate; the guards only cost.
        Isolation::Emulated => format!("{common} quiet loglevel=4 mitigations=off"),
    }
}
