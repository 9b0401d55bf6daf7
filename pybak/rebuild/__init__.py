"""The catalog made anew from the archives: what their manifests say is what the runs wrote."""
