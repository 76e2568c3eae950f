//! The examples that `--help` shows, one text per subcommand.

pub(super) const MAIN: &str = "\
Examples:
  tlstunnel-ctl key generate --out admin.key   make the key that the gateway is started with
  tlstunnel-ctl context set home --remote 192.0.2.1:1234 --key-file admin.key
  tlstunnel-ctl add blog 10.0.0.7:80           serve blog.<the gateway's domain> from 10.0.0.7
  tlstunnel-ctl list
  tlstunnel-ctl why blog.example.org           explain what a client of that name gets

Exit codes:
  0  done
  1  refused by the gateway (for `check`: also when there is a danger)
  2  wrong usage, or a local file that cannot be read or written
  3  the gateway cannot be reached, or does not answer as one
  4  not authenticated: the key or its id is wrong

With --json every answer is one JSON document on standard output, in the shapes that the control protocol documents \
(config-proto/PROTOCOL.md); `key add --out` and `key generate --out` name the file instead of showing the secret.

Remote and key come from flags, then TLSTUNNEL_REMOTE, TLSTUNNEL_KEY_FILE and TLSTUNNEL_KEY_ID, then the context \
(TLSTUNNEL_CONTEXT, or the default one of $XDG_CONFIG_HOME/tlstunnel/ctl.toml). A context named with --context wins \
over the environment. NO_COLOR=1 turns colours off.";

pub(super) const ADD: &str = "\
Examples:
  tlstunnel-ctl add blog 10.0.0.7:80
  tlstunnel-ctl add shop.example.org 10.0.0.8:80 10.0.0.9:80 --balance least --health
  tlstunnel-ctl add '*.apps.example.org' '[2001:db8::7]:8080' --proxy v2
  tlstunnel-ctl add mail.example.org 10.0.0.5:993 --mode passthrough --idle-timeout 30m
  tlstunnel-ctl add api 10.0.0.6:443 --mode reencrypt --backend-ca internal-ca.pem
  tlstunnel-ctl add intranet 10.0.0.4:80 --client-ca staff-ca.pem
  tlstunnel-ctl add default 10.0.0.3:80
  tlstunnel-ctl add blog 10.0.0.17:80 --replace";

pub(super) const REMOVE: &str = "\
Examples:
  tlstunnel-ctl remove blog
  tlstunnel-ctl remove '*.apps.example.org'";

pub(super) const LIST: &str = "\
Examples:
  tlstunnel-ctl list
  tlstunnel-ctl list team.example.org
  tlstunnel-ctl list --json | jq -r '.routes[].name'";

pub(super) const SHOW: &str = "\
Examples:
  tlstunnel-ctl show blog
  tlstunnel-ctl show default --json";

pub(super) const STATUS: &str = "\
Examples:
  tlstunnel-ctl status
  tlstunnel-ctl status --json | jq .generation";

pub(super) const HISTORY: &str = "\
Examples:
  tlstunnel-ctl history
  tlstunnel-ctl history -n 5
  tlstunnel-ctl history --all --json";

pub(super) const DIFF: &str = "\
Examples:
  tlstunnel-ctl diff            the last change
  tlstunnel-ctl diff 12         from generation 12 to now
  tlstunnel-ctl diff 12 15      from generation 12 to 15";

pub(super) const ROLLBACK: &str = "\
Examples:
  tlstunnel-ctl rollback 12     makes a new generation with the routes of generation 12";

pub(super) const APPLY: &str = "\
Examples:
  tlstunnel-ctl apply -f routes.toml --dry-run
  tlstunnel-ctl apply -f routes.toml --confirm 60s && curl https://blog.example.org && tlstunnel-ctl confirm
  tlstunnel-ctl export | sed s/10.0.0.7/10.0.0.17/ | tlstunnel-ctl apply -f -";

pub(super) const CONFIRM: &str = "\
Examples:
  tlstunnel-ctl confirm
  tlstunnel-ctl confirm 13";

pub(super) const EXPORT: &str = "\
Examples:
  tlstunnel-ctl export > routes.toml
  tlstunnel-ctl export --format json";

pub(super) const WHY: &str = "\
Examples:
  tlstunnel-ctl why blog.example.org
  tlstunnel-ctl why blog --from 198.51.100.7
  tlstunnel-ctl why --no-sni";

pub(super) const CHECK: &str = "\
Examples:
  tlstunnel-ctl check && echo nothing dangerous
  tlstunnel-ctl check --json";

pub(super) const CERT: &str = "\
Examples:
  tlstunnel-ctl cert list
  tlstunnel-ctl cert set --cert fullchain.pem --key privkey.pem
  tlstunnel-ctl cert renew blog.example.org
  tlstunnel-ctl cert revoke blog.example.org --reason key-compromise
  tlstunnel-ctl cert account rollover";

pub(super) const SITE: &str = "\
Examples (--remote is the --control address of unipi):
  tlstunnel-ctl site add blog.example.org https://forge.example.org/me/blog.git#main --hook
  tlstunnel-ctl site add docs.example.org --push
  tlstunnel-ctl site add team.example.org git@forge.example.org:team/site.git#main \\
      --ssh-key-file deploy.key --ssh-authenticator SHA256:rXxU... --allowed-signers signers --poll 5m
  tlstunnel-ctl site list
  tlstunnel-ctl site log blog.example.org
  tlstunnel-ctl site rollback blog.example.org && tlstunnel-ctl site pin blog.example.org
  tlstunnel-ctl site pin blog.example.org --off
  tlstunnel-ctl site remove docs.example.org";

pub(super) const KEY: &str = "\
Examples:
  tlstunnel-ctl key generate --out admin.key
  tlstunnel-ctl key add dashboard --role viewer --out dashboard.key
  tlstunnel-ctl key add team-a --role 'names:*.team-a.example.org' --out team-a.key
  tlstunnel-ctl key list
  tlstunnel-ctl key remove dashboard";

pub(super) const TOP: &str = "\
Examples:
  tlstunnel-ctl top
  tlstunnel-ctl top --once
  tlstunnel-ctl top --json | jq .open";

pub(super) const COMPLETIONS: &str = "\
Examples:
  tlstunnel-ctl completions bash > ~/.local/share/bash-completion/completions/tlstunnel-ctl
  tlstunnel-ctl completions zsh > ~/.zfunc/_tlstunnel-ctl
  tlstunnel-ctl completions fish > ~/.config/fish/completions/tlstunnel-ctl.fish";

pub(super) const CONTEXT: &str = "\
Examples:
  tlstunnel-ctl context set home --remote 192.0.2.1:1234 --key-file ~/keys/home.key --key-id admin
  tlstunnel-ctl context use home
  tlstunnel-ctl context list
  tlstunnel-ctl context remove home";
