//! SIGHUP: the configuration is read again, and what can change while clients are connected does.
//!
//! It is all or nothing: if anything in the file, or in a file that it names, cannot be used, everything
//! stays as it is and all that is wrong is logged. What is only read at the start is named, and stays.

use std::path::PathBuf;

use tokio::signal::unix::Signal;
use uraid_config::{Address, Config};

use super::live::{Live, Settings};
use super::manager;

/// What it takes to read the configuration again.
#[derive(Debug)]
pub(super) struct Reloader {
    /// The file; none if the daemon was started with options.
    file: Option<PathBuf>,
    /// What holds, by key.
    config: Config,
    live: Live,
    /// Where clients are let in, which does not change.
    addresses: Vec<Address>,
}

/// What a reload did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Reloaded {
    /// Keys that hold now, with their values, and files whose contents do.
    pub(super) changed: Vec<String>,
    /// Keys whose new value is not used before the next start.
    pub(super) waiting: Vec<String>,
}

impl Reloader {
    /// For a daemon that was started with this configuration.
    pub(super) fn new(file: Option<PathBuf>, config: Config, live: Live, addresses: Vec<Address>) -> Self {
        Reloader { file, config, live, addresses }
    }

    /// Reads the file again and uses what can be used.
    ///
    /// # Errors
    /// Why nothing has changed, in words that may have many lines.
    pub(super) fn reload(&mut self) -> Result<Reloaded, String> {
        let Some(file) = &self.file else {
            return Err("this daemon was started with options, not with a configuration file, so there is \
                        nothing to read again"
                .to_owned());
        };
        let fresh = Config::load(file).map_err(|error| error.to_string())?;
        let settings = Settings::of(&fresh)?;
        self.check_exposure(&fresh)?;
        let mut reloaded = Reloaded::default();
        for key in self.config.differences(&fresh) {
            let (name, old, new) = (key.full_name(), (key.value)(&self.config), (key.value)(&fresh));
            match key.live {
                true => reloaded.changed.push(format!("{name} = {new} (was {old})")),
                false => reloaded.waiting.push(format!("{name} = {new} (stays {old})")),
            }
        }
        let left_out = self.config.members.iter().filter(|member| !fresh.members.contains(member));
        reloaded
            .waiting
            .extend(left_out.map(|member| format!("{} is listed no more, and serves", member.display())));
        reloaded.changed.extend(self.renewed(&settings));
        settings.warn(&self.addresses);
        self.live.set(settings);
        self.config = self.config.with_live_keys_of(&fresh);
        Ok(reloaded)
    }

    /// Addresses stay open whatever the new file says of them, so TLS must not end where it has to be.
    fn check_exposure(&self, fresh: &Config) -> Result<(), String> {
        let open = Config { insecure: self.config.insecure && fresh.insecure, ..fresh.clone() };
        match self.addresses.iter().find(|address| open.is_exposed(address)) {
            Some(address) => Err(format!(
                "{address} is open and can be reached by other machines, and TLS would not be required there \
                 any more; that takes a restart"
            )),
            None => Ok(()),
        }
    }

    /// Files under the same names that hold other certificates now.
    fn renewed(&self, settings: &Settings) -> Option<String> {
        let now = self.live.now();
        let (old, new) = (now.certificates.as_ref()?, settings.certificates.as_ref()?);
        (!new.are_those_of(old)).then(|| "the certificates of [tls] are new".to_owned())
    }
}

/// Reads the configuration again at every SIGHUP, and tells the service manager that it does.
pub(super) async fn at_every(mut hangups: Signal, mut reloader: Reloader) {
    while hangups.recv().await.is_some() {
        manager::reloading();
        // Looking up names of users may take its time.
        let reloading = tokio::task::spawn_blocking(move || {
            let result = reloader.reload();
            (reloader, result)
        });
        let Ok((back, result)) = reloading.await else { return };
        reloader = back;
        log(&result);
        manager::reloaded();
    }
}

/// What came of it, for the log; a file with many problems has a line for each.
fn log(result: &Result<Reloaded, String>) {
    match result {
        Err(why) => {
            tracing::error!("SIGHUP: nothing has changed:");
            why.lines().for_each(|line| tracing::error!("{line}"));
        }
        Ok(Reloaded { changed, waiting }) if changed.is_empty() && waiting.is_empty() => {
            tracing::info!("SIGHUP: the configuration is what it was");
        }
        Ok(Reloaded { changed, waiting }) => {
            changed
                .iter()
                .for_each(|what| tracing::info!("SIGHUP: {what}, for clients that come from now on"));
            waiting.iter().for_each(|what| tracing::warn!("SIGHUP: {what} until the next start"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tls::testing::Files;
    use super::*;

    struct Daemon {
        files: Files,
        live: Live,
        reloader: Reloader,
    }

    /// A daemon that was started with this file.
    fn daemon(text: &str, addresses: &[&str]) -> Daemon {
        let files = Files::new();
        let file = files.write("v.toml", &format!("members = ['/m']\n{text}"));
        let config = Config::load(&file).unwrap();
        let live = Live::new(Settings::of(&config).unwrap());
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        let reloader = Reloader::new(Some(file), config, live.clone(), addresses);
        Daemon { files, live, reloader }
    }

    impl Daemon {
        fn write(&self, text: &str) {
            self.files.write("v.toml", &format!("members = ['/m']\n{text}"));
        }
    }

    const TLS: &str = "[tls]\ncertificate = 'cert.pem'\nkey = 'key.pem'\n";

    #[test]
    fn what_can_change_does_and_what_cannot_is_named() {
        let mut daemon = daemon("[limits]\nhandshake_s = 10\n", &[]);
        assert_eq!(daemon.reloader.reload(), Ok(Reloaded::default()));
        daemon.write("kernel = 'naive'\n[limits]\nhandshake_s = 3\nidle_s = 60\n");
        let expected = Reloaded {
            changed: vec![
                "limits.handshake_s = 3 (was 10)".to_owned(),
                "limits.idle_s = 60 (was 0)".to_owned(),
            ],
            waiting: vec!["kernel = naive (stays auto)".to_owned()],
        };
        assert_eq!(daemon.reloader.reload(), Ok(expected));
        assert_eq!(daemon.live.now().handshake.as_secs(), 3);
        assert_eq!(daemon.live.now().idle.map(|idle| idle.as_secs()), Some(60));
        // The kernel still waits; the limits are as the file says.
        let again = daemon.reloader.reload().unwrap();
        assert_eq!((again.changed.len(), again.waiting.len()), (0, 1));
        // Whoever takes the wrong disk off the list is told before the next start goes without it.
        daemon.files.write("v.toml", "members = ['/n']\n");
        let waiting = daemon.reloader.reload().unwrap().waiting;
        assert!(waiting.contains(&"/m is listed no more, and serves".to_owned()), "{waiting:?}");
    }

    #[test]
    fn a_file_with_problems_changes_nothing() {
        let mut daemon = daemon("", &[]);
        daemon.write("handshake = 3\n[limits]\nhandshake_s = 3\nidle_s = 'long'\n");
        let why = daemon.reloader.reload().unwrap_err();
        assert!(why.contains("v.toml:2:") && why.contains("v.toml:5:"), "{why}");
        daemon.write("allow_users = ['no-such-user']\n[limits]\nhandshake_s = 3\n");
        assert!(daemon.reloader.reload().unwrap_err().contains("no-such-user"));
        daemon.write("[limits]\nhandshake_s = 3\n[tls]\ncertificate = 'cert.pem'\nkey = 'ca.pem'\n");
        assert!(daemon.reloader.reload().unwrap_err().contains("ca.pem"));
        assert_eq!(daemon.live.now().handshake.as_secs(), 10);
    }

    #[test]
    fn certificates_are_read_again_even_if_the_file_is_the_same() {
        let mut daemon = daemon(TLS, &["tcp:127.0.0.1:1"]);
        assert_eq!(daemon.reloader.reload(), Ok(Reloaded::default()));
        let renewed = daemon.files.authority.issue("server", &["localhost"], 2300);
        daemon.files.write("cert.pem", &renewed.certificate);
        daemon.files.write("key.pem", &renewed.key);
        let reloaded = daemon.reloader.reload().unwrap();
        assert_eq!(reloaded.changed, ["the certificates of [tls] are new"]);
    }

    #[test]
    fn an_open_address_does_not_lose_its_tls() {
        let listen = "listen = ['tcp:0.0.0.0:1']\n";
        let mut daemon = daemon(&format!("{listen}{TLS}"), &["tcp:0.0.0.0:1"]);
        // Right in itself, and not for the address that is open.
        daemon.write("listen = ['tcp:127.0.0.1:1']\n");
        assert!(daemon.reloader.reload().unwrap_err().contains("that takes a restart"));
        daemon.write(&format!("insecure = true\n{listen}"));
        assert!(daemon.reloader.reload().is_err(), "it was not insecure when it was opened");
        daemon.write(&format!("{listen}{TLS}mode = 'required'\n"));
        assert_eq!(daemon.reloader.reload().unwrap().changed, ["tls.mode = required (was auto)"]);
    }

    #[test]
    fn a_daemon_of_options_has_nothing_to_read() {
        let config = Config::with_members(vec!["/m".into()]);
        let live = Live::new(Settings::of(&config).unwrap());
        let mut reloader = Reloader::new(None, config, live, Vec::new());
        assert!(reloader.reload().unwrap_err().contains("started with options"));
    }
}
