//! Small servers and checks that several scenarios use.

use anyhow::{Context, Result, ensure};
use heddle_e2e::{Pod, TestMesh, wait};
use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// Part of what nginx answers: what must not be readable on the wire.
pub(crate) const PLAIN_MARKER: &str = "plain-as-day";

/// A server in a pod that greets with the client's address, a line, and then sends back what it gets. It ends when dropped.
pub(crate) struct Echo {
    stop: Arc<AtomicBool>,
    connections: Arc<AtomicUsize>,
}

impl Echo {
    pub(crate) fn start(pod: &Pod, port: u16) -> Result<Self> {
        Self::serve(pod.listen(port)?)
    }

    /// On the node, at the address that is outside of the mesh.
    pub(crate) fn on_node(mesh: &TestMesh, port: u16) -> Result<Self> {
        let at = (mesh.outside(), port);
        Self::serve(mesh.node().run(|| TcpListener::bind(at))?.context("listening on the node")?)
    }

    /// In a pod, at one address of whatever family.
    pub(crate) fn at(pod: &Pod, at: SocketAddr) -> Result<Self> {
        Self::serve(pod.run(|| TcpListener::bind(at))?.with_context(|| format!("listening at {at}"))?)
    }

    /// Connections that reached it.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    fn serve(listener: TcpListener) -> Result<Self> {
        let (stop, connections) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, counted) = (stop.clone(), connections.clone());
        listener.set_nonblocking(true)?;
        thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, peer)) => {
                        counted.fetch_add(1, Ordering::Relaxed);
                        thread::spawn(move || greet_and_echo(stream, peer));
                    }
                    // Nothing wakes a blocked accept from outside of its namespace, so it looks now and then.
                    Err(_) => thread::park_timeout(Duration::from_millis(1)),
                }
            }
        });
        Ok(Self { stop, connections })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn greet_and_echo(mut stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.write_all(format!("{peer}\n").as_bytes())?;
    let mut buffer = [0; 16 * 1024];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            count => stream.write_all(&buffer[..count])?,
        }
    }
}

/// A connection to an [`Echo`].
pub(crate) struct EchoClient {
    stream: BufReader<TcpStream>,
    /// Our address, as the server sees it.
    pub(crate) seen_as: SocketAddr,
}

impl EchoClient {
    pub(crate) fn connect(from: &Pod, to: SocketAddr) -> Result<Self> {
        let mut stream = BufReader::new(from.connect(to)?);
        stream.get_ref().set_nodelay(true)?;
        let mut line = String::new();
        stream.read_line(&mut line).context("the greeting")?;
        let seen_as = line.trim().parse().with_context(|| format!("the greeting {line:?} is no address"))?;
        Ok(Self { stream, seen_as })
    }

    /// Sends a word there and back.
    pub(crate) fn exchange(&mut self, word: &str) -> Result<()> {
        self.stream.get_ref().write_all(word.as_bytes())?;
        let mut answer = vec![0; word.len()];
        self.stream.read_exact(&mut answer)?;
        ensure!(answer == word.as_bytes(), "{word:?} came back as {:?}", String::from_utf8_lossy(&answer));
        Ok(())
    }

    /// Waits, silent, for the other side to end the connection; how long that took.
    pub(crate) fn wait_end(mut self) -> Result<Duration> {
        let start = Instant::now();
        match self.stream.read(&mut [0]) {
            Ok(0) => Ok(start.elapsed()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(start.elapsed()),
            Ok(_) => anyhow::bail!("a byte came instead of the end"),
            Err(error) => Err(error).context("waiting for the end of a connection"),
        }
    }
}

/// One connection to an [`Echo`] with one word there and back; who the server said we are.
pub(crate) fn echo(from: &Pod, to: SocketAddr) -> Result<SocketAddr> {
    let mut client = EchoClient::connect(from, to)?;
    client.exchange("there and back")?;
    Ok(client.seen_as)
}

/// Runs something that must not take as long as a timeout would: a refusal comes at once.
pub(crate) fn prompt<T>(what: &str, action: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let result = action()?;
    let took = start.elapsed();
    ensure!(took < PROMPT, "{what} took {took:?}");
    Ok(result)
}

/// A busy machine needs a while for anything; no timeout of the product or of TCP is as short (the first SYN is sent again
/// after 1 s, and again after 2 s more).
pub(crate) const PROMPT: Duration = Duration::from_millis(2500);

/// Waits for a condition about a pod that other programs bring about.
pub(crate) fn soon(what: &str, condition: impl FnMut() -> Result<bool>) -> Result<()> {
    wait::until_true(what, wait::PATIENCE, condition)
}
