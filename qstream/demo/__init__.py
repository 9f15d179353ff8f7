"""The demo: a shared stage (servers, agent, view), and one folder a module with its scenes on real input."""
